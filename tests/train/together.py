"""A training for one process or several, as ``test_many_processes.py`` starts it.

together.py ROOT OUT TEACHER: this process's part of it, under ``torchrun``; the last process is killed on the way.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import torch

from tests.tiny import tiny_run
from udx import processes
from udx.data.augment import AugmentationConfig, BevAugmentation
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.train.acceleration import join_processes
from udx.train.examiner import Examiner
from udx.train.loop import Job, train
from udx.train.objectives.feature import Feature
from udx.train.run import Run

SAMPLES_PER_STEP = 2
DIES_AT = 4
TURN = AugmentationConfig(bev=BevAugmentation(mirror_y_probability=0.5, rotation_rad=(-0.2, 0.2)))


def job_of(root: Path, run: Run, teacher: Run, **more) -> Job:
    """Distillation of a fusion detector with augmentation; every second sample has no boxes."""
    nusc = open_dataroot(root)
    keyframes = load_keyframes(nusc, "train", max_sweeps=1) * 2
    batch_size = SAMPLES_PER_STEP // processes.count()
    config = tiny_run("fusion", epochs=2, batch_size=batch_size, augmentation=TURN, checkpoint_every_s=0.0)
    # Adam makes steps of one size out of gradients that are nothing but rounding errors: with small steps the weights
    # stay together, and what is compared is the gradient itself.
    optimiser = dataclasses.replace(config.train.optimiser, learning_rate=1e-6)
    objectives = {**config.distillation.objectives, "spread": Feature(weight=0.1, normalise=True)}
    config = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, optimiser=optimiser, gradient_norms_every=0),
        distillation=dataclasses.replace(config.distillation, objectives=objectives, ramp=0.0),
    )
    examiner = Examiner(nusc, "val", load_keyframes(nusc, "val", max_sweeps=1), config)
    return Job(
        config=config,
        keyframes=[without_boxes(its) if at % 2 else its for at, its in enumerate(keyframes)],
        data={"keyframes": "tiny"},
        run=run,
        teacher=teacher,
        validate=lambda detector: examiner(detector, lambda done, total: None),
        **more,
    )


def without_boxes(keyframe):
    annotations = keyframe.annotations
    return dataclasses.replace(keyframe, annotations=annotations[annotations.labels_N < 0])


def main() -> None:
    root, out, teacher = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    join_processes()

    def watch(progress) -> None:
        # A process that is killed has no chance to save or to say good-bye.
        if progress.step == DIES_AT and not (out / "died").exists():
            (out / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    train(job_of(root, Run(out), Run(teacher), resume=True, watch=watch))
    (out / f"process-{processes.rank()}-of-{processes.count()}").touch()


if __name__ == "__main__":
    main()
