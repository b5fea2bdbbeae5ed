"""What ``udx eval``, ``bench`` and ``predict`` do: open the data and the run or engine that were named."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udx.data.dataset import default_splits, open_or_make
from udx.data.detections import Detections
from udx.data.evaluation import Metrics, evaluate, submission_of
from udx.data.frame import KeyFrame
from udx.data.nuscenes import load_keyframes
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.runtime.bench import bench
from udx.runtime.engine import open_engine
from udx.runtime.frames import keyframe_frames
from udx.runtime.measure import Protocol
from udx.runtime.predict import draw_to, predict, predict_all
from udx.runtime.report import Accuracy, BenchReport, EngineReport

if TYPE_CHECKING:
    from nuscenes import NuScenes

    from udx.formats import Comparison, Phases

Tick = Callable[[int, int], None]
Ticking = Callable[[str], AbstractContextManager[Tick]]
"""Opens a progress bar of a title."""

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
            found = predict_all(runner, keyframes, progress=progress)
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
    positive: Path | None,
    backend: str,
    root: Path | None,
    version: str | None,
    split: str | None,
    threads: int | None,
    accuracy: bool,
    ticking: Ticking,
    **protocol: Any,
) -> BenchReport:
    """Measure an engine, on keyframes of ``root`` if it is given, else on one generated frame.

    With ``root`` the report has the accuracy on the split too, unless ``accuracy`` is false. ``protocol`` are fields
    of a ``Protocol``; those that are None are its defaults. One thread runs the network where a core is named.

    Raises:
        UdxError: an engine or the data cannot be used.
    """
    chosen = Protocol(**{name: value for name, value in protocol.items() if value is not None})
    if chosen.core is not None:
        threads = threads or 1
    frames, frames_are = None, ""
    if root is not None:
        manifest = open_engine(engine, backend).manifest
        with ticking("opening the data") as tick:
            nusc, split, keyframes = _open(root, version, split, manifest.spec, tick)
        frames = keyframe_frames(keyframes[:BENCH_KEYFRAMES], manifest)
        frames_are = f"{len(frames)} keyframes of split {split} of {root.name}"
    with ticking("measuring") as tick:
        report = bench(
            engine,
            against=against,
            positive=positive,
            backend=backend,
            threads=threads,
            frames=frames,
            frames_are=frames_are,
            protocol=chosen,
            progress=tick,
        )
    if root is None or not accuracy or not report.complete:
        return report

    def with_accuracy(measured: EngineReport, path: Path) -> EngineReport:
        with ticking(f"evaluating {path.name}") as tick, open_engine(path, backend, threads) as runner:
            found = predict_all(runner, keyframes, progress=tick)
        metrics = evaluate(nusc, str(split), found, keyframes, modality=runner.manifest.spec.modality)
        return replace(measured, accuracy=Accuracy(data=root.name, split=str(split), metrics=metrics))

    return replace(
        report,
        engine=with_accuracy(report.engine, engine),
        against=with_accuracy(report.against, against) if report.against and against else None,
    )


def bench_run(
    run_folder: Path,
    *,
    root: Path | None,
    version: str | None,
    split: str | None,
    threads: int | None,
    ticking: Ticking,
    phases: "Phases",
    **options: Any,
) -> "Comparison":
    """Make, evaluate and measure a run in every format that runs here.

    Raises:
        UdxError: the run or the data cannot be used, or an option is given that is for engines alone.
    """
    from udx.formats import Request, compare_formats

    fields = {name: options.pop(name) for name in ("blocks", "warmup", "core")}
    del options["accuracy"]
    for name, value in options.items():
        if value not in (None, "auto"):
            raise UdxError(f"--{name.replace('_', '-')} is for a comparison of engines, not of formats; leave it out")
    protocol = Protocol(**{name: value for name, value in fields.items() if value is not None})
    if protocol.core is not None:
        threads = threads or 1
    request = Request(run=run_folder, root=root, version=version, split=split, threads=threads, protocol=protocol)
    return compare_formats(request, ticking, phases)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What to detect in: keyframe ``sample`` or all of ``split`` in ``root``; or ``images``, ``points`` or both.

    Raises:
        UdxError: it is not exactly one of these, or something is missing or of no use to it.
    """

    root: Path | None = None
    version: str | None = None
    sample: str | None = None
    split: str | None = None
    images: Path | None = None
    points: Path | None = None
    rig: Path | None = None

    def __post_init__(self) -> None:
        if [bool(self.sample), bool(self.split), bool(self.images or self.points)].count(True) != 1:
            raise UdxError(
                "predict needs one keyframe (--data, --sample), or a split (--data, --split), or a folder (--images, "
                "--points); give one of them"
            )
        if (self.root is None) == bool(self.sample or self.split):
            raise UdxError("--sample and --split are of a dataroot, --images and --points are not; see --data")
        if self.rig is not None and self.root is not None:
            raise UdxError("a dataroot holds its own calibration; leave --rig out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was found: all of it for a file, the boxes of each frame to show, and sentences about it."""

    json: dict[str, Any]
    frames: dict[str, Detections]
    lines: tuple[str, ...]


def predict_source(
    engine: Path, source: Source, *, backend: str, score: float, png: Path | None, progress: Tick
) -> Prediction:
    """Run an engine on a source; ``png`` is a picture to draw, of several frames a folder of pictures.

    Raises:
        UdxError: the engine or the source cannot be used.
    """
    drawn = f"; drawn in {png}" if png else ""
    if source.split is not None:
        submission = predict_split(
            engine, source=source, backend=backend, score=score, png_folder=png, progress=progress
        )
        boxes = sum(map(len, submission["results"].values()))
        said = f"{len(submission['results'])} keyframes of split {source.split}, {boxes} boxes{drawn}"
        return Prediction(json=submission, frames={}, lines=(said,))
    if source.sample is not None:
        found = predict_keyframe(engine, source=source, backend=backend, score=score, png=png)
        kept = found.above(score)
        said = f"{len(kept)} boxes with a score of at least {score:g}{drawn}"
        return Prediction(json=found.to_json(), frames={source.sample: kept}, lines=(said,))
    frames, notes = predict_folder(engine, source=source, backend=backend, score=score, png=png, progress=progress)
    shown = {token: found.above(score) for token, found in frames.items()}
    count = f"{len(frames)} frame{'s' if len(frames) > 1 else ''}"
    said = f"{sum(map(len, shown.values()))} boxes with a score of at least {score:g} in {count}{drawn}"
    return Prediction(
        json={token: found.to_json() for token, found in frames.items()}, frames=shown, lines=(*notes, said)
    )


def predict_keyframe(engine: Path, *, source: Source, backend: str, score: float, png: Path | None) -> Detections:
    """Run an engine on the keyframe whose token begins as the source says, and draw it if ``png`` is given.

    Raises:
        UdxError: no or several keyframes have such a token, or the engine or the data cannot be used.
    """
    from udx.data.nuscenes import keyframe_of, open_dataroot

    assert source.root is not None and source.sample is not None
    spec = open_engine(engine, backend).manifest.spec
    keyframe = keyframe_of(open_dataroot(source.root, source.version), source.sample, max_sweeps=_sweeps(spec))
    return predict(engine, keyframe, backend=backend, png=png, score=score)


def predict_split(
    engine: Path,
    *,
    source: Source,
    backend: str,
    score: float,
    png_folder: Path | None,
    progress: Tick,
) -> dict[str, Any]:
    """Run an engine on every keyframe of a split, and draw each into ``png_folder`` if it is given.

    Returns:
        A submission as nuScenes' evaluation reads it.

    Raises:
        UdxError: the engine or the data cannot be used.
    """
    with open_engine(engine, backend) as runner:
        spec = runner.manifest.spec
        _, _, keyframes = _open(source.root, source.version, source.split, spec, progress)
        found = predict_all(runner, keyframes, progress=progress, png_folder=png_folder, score=score)
    return submission_of(found, keyframes, spec.modality)


def predict_folder(
    engine: Path,
    *,
    source: Source,
    backend: str,
    score: float,
    png: Path | None,
    progress: Tick,
) -> tuple[dict[str, Detections], list[str]]:
    """Run an engine on a folder of images, on files of points, or on both; draw each frame if ``png`` is given.

    ``png`` is the picture of a single frame, and else a folder of pictures. Without a rig the cameras are those whose
    calibration the engine holds.

    Returns:
        Detections by frame, and sentences about points that did not fit the engine's buffer.

    Raises:
        UdxError: the engine, the files or the calibration cannot be used.
    """
    from udx.data.folder import folder_frames, thinned
    from udx.data.rig_file import read_rig

    calibration = read_rig(source.rig) if source.rig is not None else None
    with open_engine(engine, backend) as runner:
        manifest = runner.manifest
        frames = folder_frames(
            manifest.spec,
            images=source.images,
            points=source.points,
            calibration=calibration,
            network_rig=manifest.rig,
        )
        single = png is not None and len(frames) == 1
        found = predict_all(runner, frames, progress=progress, png_folder=None if single else png, score=score)
    if png is not None and single:
        draw_to(png, frames[0], found[frames[0].token], score)
    notes = [
        f"frame {token} has {beyond} points more than the engine's buffer holds: an even sample was used"
        for token, beyond in thinned(frames, manifest.spec)
    ]
    return found, notes


def _open(
    root: Path | None, version: str | None, split: str | None, spec: SensorSpec, progress: Tick
) -> "tuple[NuScenes, str, Sequence[KeyFrame]]":
    nusc = open_or_make(root, version, progress)
    split = split or default_splits(nusc.version)[1]
    return nusc, split, load_keyframes(nusc, split, max_sweeps=_sweeps(spec))


def _sweeps(spec: SensorSpec) -> int:
    return spec.lidar.sweeps if spec.lidar else 1
