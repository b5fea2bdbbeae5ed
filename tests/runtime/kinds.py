"""Every kind of runner, each opened on the same detectors, and the doctor's word on which can run here."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.build.exported import config_of, exported_model, frame_of, random_detector, write_sealed
from tests.build.plans import Silent, build_plan
from tests.tiny import tiny_run
from udx.build.job import Request, build
from udx.data.spec import Modality
from udx.doctor.diagnosis import Answer
from udx.doctor.examine import examine
from udx.runtime import Runner, open_engine
from udx.train.checkpoint import CheckpointRecord, save_checkpoint
from udx.train.run import Run


def write_onnx(folder: Path, modality: Modality) -> Path:
    return write_sealed(folder / "student.onnx", *exported_model("tiny", modality))


def write_run(folder: Path, modality: Modality) -> Path:
    """The detector of ``write_onnx`` as a training leaves it."""
    manifest = exported_model("tiny", modality)[1]
    config = tiny_run(modality)
    assert config.detector == config_of("tiny", modality)
    rig = manifest.rig.to_json() if manifest.rig else None
    record = CheckpointRecord(config=config, step=1, data={"keyframes": "none"}, git_commit="unknown", rig=rig)
    save_checkpoint(Run(folder).checkpoint, random_detector(config.detector, frame_of(manifest)), record)
    return folder


def _onnx(backend: str) -> Callable[[Path, Modality], Runner]:
    return lambda folder, modality: open_engine(write_onnx(folder, modality), backend, threads=1)


def _run(backend: str) -> Callable[[Path, Modality], Runner]:
    return lambda folder, modality: open_engine(write_run(folder, modality), backend, threads=1)


def _partitioned(folder: Path, modality: Modality) -> Runner:
    return open_engine(build_plan(write_onnx(folder, modality), folder / "student.plan").path, threads=1)


def _plan(backend: str) -> Callable[[Path, Modality], Runner]:
    def opened(folder: Path, modality: Modality) -> Runner:
        plan = folder / "student.plan"
        build(Request(file=write_onnx(folder, modality), out=plan, backend=backend, cache=None), Silent())
        return open_engine(plan)

    return opened


KINDS: Mapping[str, Callable[[Path, Modality], Runner]] = {
    "onnxruntime": _onnx("onnxruntime"),
    "partitioned": _partitioned,
    "torch": _run("torch"),
    "onnxruntime-cuda": _onnx("onnxruntime-cuda"),
    "tensorrt": _plan("tensorrt"),
    "tensorrt-rtx": _plan("tensorrt-rtx"),
    "torch-cuda": _run("torch-cuda"),
    "torch-compile-cuda": _run("torch-compile-cuda"),
}
ANYWHERE = ("onnxruntime", "partitioned", "torch")


@cache
def _answers() -> Mapping[str, Answer]:
    found = examine(lambda done, total: None)
    backends = {backend.name: backend.run for backend in found.backends}
    return backends | {"torch-cuda": found.gpu, "torch-compile-cuda": found.gpu}


def require_runnable(kind: str) -> None:
    """Skip what cannot run here, with the reason and the cure that ``udx doctor`` gives."""
    if kind not in ANYWHERE and (answer := _answers()[kind]).verdict == "no":
        pytest.skip(f"{answer.why}: {'; '.join(answer.mend)}")
