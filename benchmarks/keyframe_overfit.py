"""Train a student on one keyframe until it knows it by heart, and measure it through its exported engine.

A detector that cannot learn one frame by heart has a fault in its geometry: this is the proof, on real sensors,
that images, points, calibration, boxes, targets, decoding, export and evaluation mean the same by x, y and yaw.
Serves any dataroot with a split ``keyframe`` of one keyframe.
"""

import json
import platform
import shutil
import time
from pathlib import Path

import click
import torch

from udx.commands import score
from udx.console import bar, say, ticking
from udx.entry import run_command
from udx.export.onnx_export import export_run
from udx.files import write_json
from udx.train.job import Lineup, Request, fit, open_data, resolve_config
from udx.train.run import Run, git_commit

STEPS = {"lidar": 250, "cam": 300, "fusion": 250}
"""Steps on the one keyframe: about twice what the nuScenes keyframe of scene-0061 needs."""


@click.command()
@click.option("--data", "root", type=click.Path(path_type=Path), required=True, help="Dataroot with a split keyframe.")
@click.option("--student", type=click.Choice(["lidar", "cam", "fusion"]), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for run and engine; replaced.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), required=True, help="Where the figures go.")
@click.option("--version", help="Version of the dataroot, where it has several.")
def main(root: Path, student: str, out: Path, json_file: Path, version: str | None) -> None:
    """Overfit one keyframe and report mAP, NDS and the seconds it took."""
    began = time.monotonic()
    request = Request(
        data=root,
        version=version,
        student=student,  # type: ignore[arg-type]
        train_split="keyframe",
        val_split="keyframe",
        epochs=STEPS[student],
        overrides=("train.augmentation=null", "train.workers=0", "train.batch_size=1"),
    )
    config = resolve_config(request)
    run = Run(out / "run")
    # Every epoch is one step here: writing a checkpoint after each would take longer than the steps.
    if run.folder.exists():
        shutil.rmtree(run.folder)
    fit(Lineup(config, run), open_data(request, config, bar), bar)
    engine = export_run(run, out / f"{student}.onnx").path
    with ticking("evaluating the engine") as tick:
        metrics = score(
            None, engine, root=root, version=version, split="keyframe", backend="onnxruntime", progress=tick
        )
    figures = {
        "mAP": metrics.mean_ap,
        "NDS": metrics.nds,
        "seconds": round(time.monotonic() - began, 1),
        "student": student,
        "steps": STEPS[student],
        "per_class": dict(metrics.per_class),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "python": platform.python_version(), "udx": git_commit()},
    }
    write_json(json_file, figures)
    say(json.dumps({name: figures[name] for name in ("mAP", "NDS", "seconds")}))


if __name__ == "__main__":
    run_command(main)
