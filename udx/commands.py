"""What ``udx eval``, ``bench`` and ``predict`` do: open the data and the run or engine that were named."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from udx.data.dataset import default_splits, open_or_make
from udx.data.detections import Detections
from udx.data.evaluation import Metrics, evaluate
from udx.data.frame import KeyFrame
from udx.data.load import load_sample
from udx.data.nuscenes import load_keyframes
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.runtime.bench import bench
from udx.runtime.engine import open_engine
from udx.runtime.frames import keyframe_frames, tensors_of
from udx.runtime.measure import Protocol
from udx.runtime.predict import predict
from udx.runtime.report import BenchReport

if TYPE_CHECKING:
    from nuscenes import NuScenes

Tick = Callable[[int, int], None]

BENCH_KEYFRAMES = 20
"""Keyframes that a measurement with data goes around."""


def score(
    run_folder: Path | None,
    engine: Path | None,
    *,
    root: Path | None,
    version: str | None,
    split: str | None,
    backend: str,
    progress: Tick,
) -> Metrics:
    """Evaluate a run in torch, or an engine in its backend, with nuScenes' metrics.

    Raises:
        UdxError: not exactly one of run and engine is given, or one of them or the data cannot be used.
    """
    if (run_folder is None) == (engine is None):
        raise UdxError("eval needs either --run or --engine; give one of them")
    if engine is not None:
        with open_engine(engine, backend) as runner:
            spec = runner.manifest.spec
            nusc, split, keyframes = _open(root, version, split, spec, progress)
            found = {}
            for done, keyframe in enumerate(keyframes, start=1):
                found[keyframe.token] = runner.detect(tensors_of(load_sample(keyframe, spec), runner.manifest))
                progress(done, len(keyframes))
    else:
        from udx.train.checkpoint import load_detector
        from udx.train.predict import predict as predict_in_torch
        from udx.train.run import Run

        assert run_folder is not None
        detector, _ = load_detector(Run(run_folder).checkpoint)
        spec = detector.config.spec
        nusc, split, keyframes = _open(root, version, split, spec, progress)
        found = predict_in_torch(detector, keyframes, progress=progress)
    return evaluate(nusc, split, found, keyframes, modality=spec.modality)


def bench_engine(
    engine: Path,
    *,
    against: Path | None,
    backend: str,
    root: Path | None,
    version: str | None,
    split: str | None,
    blocks: int | None,
    warmup: int | None,
    margin: float | None,
    threads: int | None,
    progress: Tick,
) -> BenchReport:
    """Measure an engine, on keyframes of ``root`` if it is given, else on one generated frame.

    Raises:
        UdxError: an engine or the data cannot be used.
    """
    chosen = {"blocks": blocks, "warmup": warmup, "margin": margin}
    protocol = Protocol(**{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
    frames, frames_are = None, ""
    if root is not None:
        manifest = open_engine(engine, backend).manifest
        _, split, keyframes = _open(root, version, split, manifest.spec, progress)
        frames = keyframe_frames(keyframes[:BENCH_KEYFRAMES], manifest)
        frames_are = f"{len(frames)} keyframes of split {split} of {root.name}"
    return bench(
        engine,
        against=against,
        backend=backend,
        threads=threads,
        frames=frames,
        frames_are=frames_are,
        protocol=protocol,
        progress=progress,
    )


def predict_keyframe(
    engine: Path, *, root: Path, version: str | None, sample: str, backend: str, score: float, png: Path | None
) -> Detections:
    """Run an engine on the keyframe whose token begins with ``sample``, and draw it if ``png`` is given.

    Raises:
        UdxError: no or several keyframes have such a token, or the engine or the data cannot be used.
    """
    from udx.data.nuscenes import keyframe_of, open_dataroot

    spec = open_engine(engine, backend).manifest.spec
    keyframe = keyframe_of(open_dataroot(root, version), sample, max_sweeps=_sweeps(spec))
    return predict(engine, keyframe, backend=backend, png=png, score=score)


def _open(
    root: Path | None, version: str | None, split: str | None, spec: SensorSpec, progress: Tick
) -> "tuple[NuScenes, str, Sequence[KeyFrame]]":
    nusc = open_or_make(root, version, progress)
    split = split or default_splits(nusc.version)[1]
    return nusc, split, load_keyframes(nusc, split, max_sweeps=_sweeps(spec))


def _sweeps(spec: SensorSpec) -> int:
    return spec.lidar.sweeps if spec.lidar else 1
