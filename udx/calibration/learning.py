"""Quantization-aware distillation of the run behind a file: its weights and scales learned, its graph the same."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from udx.calibration.insert import Scales
from udx.calibration.placement import Placement
from udx.config import to_plain
from udx.data.nuscenes import load_keyframes
from udx.errors import UdxError
from udx.files import sha256_of
from udx.runtime.frames import generated_frame
from udx.runtime.graph import structure_of
from udx.runtime.onnx_file import OnnxFile

if TYPE_CHECKING:
    from udx.calibration.job import Calibration, Request

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


def learn(
    calibration: "Calibration", placement: Placement, scales: Scales, request: "Request", bar: Bar
) -> tuple[OnnxFile, Scales]:
    """Train the run under the placement, and export it anew; its checkpoint is written beside the request's target.

    Scales are taken up where calibration left them. Training sees every sample of the split that calibrated but those
    of the scenes that judge.

    Raises:
        UdxError: the file was not exported from that run, or training fails.
    """
    from udx.export.deploy import DeployableDetector
    from udx.export.onnx_export import to_onnx
    from udx.train.checkpoint import read_checkpoint, save_checkpoint
    from udx.train.quantize import Lesson, distil_quantized
    from udx.train.run import Run

    assert request.learn is not None
    file, run = calibration.file, Run(request.learn)
    record, _ = read_checkpoint(run.checkpoint)
    if sha256_of(run.checkpoint) != file.manifest.checkpoint_sha256:
        raise UdxError(f"{file.path} was not exported from {run.folder} as it is now; export that run again")
    teacher = Run(request.teacher) if request.teacher else run
    split, judged = calibration.chosen.split, set(calibration.chosen.judged_scenes)
    keyframes = load_keyframes(calibration.nusc, split)
    with bar(f"training {run.folder.name} in INT8, taught by {teacher.folder.name}") as tick:
        lesson = Lesson(
            run=run,
            teacher=teacher,
            keyframes=[keyframe for keyframe in keyframes if keyframe.scene not in judged],
            steps=request.steps,
            tick=tick,
        )
        learned = distil_quantized(lesson, placement, scales)
    checkpoint = request.target.with_suffix(".safetensors")
    save_checkpoint(
        checkpoint,
        learned.detector,
        dataclasses.replace(
            record, teacher=learned.teacher, start_sha256=file.manifest.checkpoint_sha256, step=request.steps
        ),
    )
    frame, _ = generated_frame(file.manifest, seed=0)
    model = to_onnx(DeployableDetector(learned.detector), dict(frame()), file.manifest.dynamic)
    if file.manifest.graph is None or structure_of(model).sha256 != file.manifest.graph.sha256:
        raise UdxError(f"{file.path} is of another version of udx, whose graph is not today's; export the run again")
    manifest = dataclasses.replace(
        file.manifest, checkpoint_sha256=sha256_of(checkpoint), teacher=to_plain(learned.teacher)
    )
    return dataclasses.replace(file, model=model, manifest=manifest), learned.scales
