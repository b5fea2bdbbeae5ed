"""What ``udx eval``, ``bench`` and ``predict`` do: open the data and the run or engine that were named."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udx.data.dataset import default_splits, open_or_make
from udx.data.detections import Detections
from udx.data.evaluation import Metrics, evaluate, require_devkit, submission_of
from udx.data.frame import KeyFrame
from udx.data.nuscenes import has_devkit, keyframe_of, load_keyframes
from udx.data.spec import SensorSpec
from udx.errors import UdxError
from udx.outputs import overwritten
from udx.runtime.bench import bench
from udx.runtime.cuda_driver import cuda_driver, first_device
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What an evaluation found, of what, and on which keyframes."""

    metrics: Metrics
    subject: str
    data: str
    split: str
    samples: int
    seconds: float

    def lines(self) -> list[str]:
        """Figures, then what they are of, for the terminal."""
        errors = ", ".join(f"{name} {value:.3f}" for name, value in self.metrics.tp_errors.items())
        return [
            f"{self.metrics.summary()} ({errors})",
            f"{self.subject} on {self.samples} keyframes of split {self.split} of {self.data}, "
            f"{self.seconds / self.samples:.3f} s each with reading",
        ]


def score(
    run_folder: Path | None,
    engine: Path | None,
    *,
    root: Path | None,
    version: str | None,
    split: str | None,
    backend: str,
    progress: Tick,
) -> Scored:
    """Evaluate a run in torch, or an engine in its backend, with nuScenes' metrics.

    Raises:
        UdxError: not exactly one of run and engine is given, or one of them or the data cannot be used.
    """
    if (run_folder is None) == (engine is None):
        raise UdxError("eval needs either --run or --engine; give one of them")
    if engine is not None:
        require_devkit()
        with open_engine(engine, backend) as runner:
            spec = runner.manifest.spec
            nusc, split, keyframes = _open(root, version, split, spec, progress)
            began = time.monotonic()
            found = predict_all(runner, keyframes, progress=progress)
            subject = f"engine {engine} in {runner.settings['backend']}"
    else:
        from udx.train.checkpoint import load_detector
        from udx.train.predict import predict as predict_in_torch
        from udx.train.run import Run

        assert run_folder is not None
        if backend != "auto":
            raise UdxError(f"a run is evaluated in torch, and --backend {backend} is for --engine; leave it out")
        detector, _ = load_detector(Run(run_folder).checkpoint)
        subject = f"run {run_folder} in torch"
        spec = detector.config.spec
        nusc, split, keyframes = _open(root, version, split, spec, progress)
        began = time.monotonic()
        found = predict_in_torch(detector, keyframes, progress=progress)
    took_s = time.monotonic() - began
    return Scored(
        metrics=evaluate(nusc, split, found, keyframes, modality=spec.modality),
        subject=subject,
        data=f"{nusc.dataroot} ({nusc.version})",
        split=split,
        samples=len(keyframes),
        seconds=took_s,
    )


def hint_of_gpu(engine: Path, backend: str) -> str | None:
    """What to say where an ONNX file is about to be measured on the CPU of a machine that has a GPU."""
    if backend != "auto" or engine.suffix != ".onnx":
        return None
    try:
        name = first_device(cuda_driver()).name
    except UdxError:
        return None
    return (
        f"note: this measures the CPU; for the {name} give --backend onnxruntime-cuda, or a plan that udx build makes "
        f"of {engine}"
    )


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
    accuracy: bool | None,
    ticking: Ticking,
    **protocol: Any,
) -> BenchReport:
    """Measure an engine, on keyframes of ``root`` if it is given, else on one generated frame.

    With ``root`` the report has the accuracy on the split too, unless ``accuracy`` is false, or it is None and
    nuscenes-devkit is not installed. ``protocol`` are fields
    of a ``Protocol``; those that are None are its defaults. One thread runs the network where a core is named.

    Raises:
        UdxError: an engine or the data cannot be used.
    """
    if accuracy is None:
        accuracy = has_devkit()
    if root is not None and accuracy:
        require_devkit()
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

    require_devkit()
    fields = {name: options.pop(name) for name in ("blocks", "warmup", "core")}
    if options.pop("accuracy") is not None:
        raise UdxError("--accuracy is for an engine: formats of a run are always evaluated; leave it out")
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

    Without ``root`` keyframes are the synthetic world's; without any of these it is the first of its validation split.

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
        if [bool(self.sample), bool(self.split), bool(self.images or self.points)].count(True) > 1:
            raise UdxError(
                "predict takes one keyframe (--sample), or a split (--split), or a folder (--images, --points); give "
                "one of them"
            )
        if self.is_folder and (self.root is not None or self.version is not None):
            raise UdxError("--data and --version are of a dataroot, --images and --points are not; give one of them")
        if self.rig is not None and not self.is_folder:
            raise UdxError("a dataroot holds its own calibration; leave --rig out")

    @property
    def is_folder(self) -> bool:
        """Whether it is files and no dataroot."""
        return self.images is not None or self.points is not None


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
    if not source.is_folder:
        token, found = predict_keyframe(engine, source=source, backend=backend, score=score, png=png, progress=progress)
        kept = found.above(score)
        said = f"keyframe {token}: {len(kept)} boxes with a score of at least {score:g}{drawn}"
        return Prediction(json=found.to_json(), frames={token: kept}, lines=(said,))
    frames, notes = predict_folder(engine, source=source, backend=backend, score=score, png=png, progress=progress)
    shown = {token: found.above(score) for token, found in frames.items()}
    count = f"{len(frames)} frame{'s' if len(frames) > 1 else ''}"
    said = f"{sum(map(len, shown.values()))} boxes with a score of at least {score:g} in {count}{drawn}"
    return Prediction(
        json={token: found.to_json() for token, found in frames.items()}, frames=shown, lines=(*notes, said)
    )


def predict_keyframe(
    engine: Path, *, source: Source, backend: str, score: float, png: Path | None, progress: Tick
) -> tuple[str, Detections]:
    """Run an engine on one keyframe, and draw it if ``png`` is given.

    It is the one whose token begins as the source says, or else the first of the validation split.

    Returns:
        Its token, and the detections.

    Raises:
        UdxError: no or several keyframes have such a token, or the engine or the data cannot be used.
    """
    spec = open_engine(engine, backend).manifest.spec
    if source.sample is None:
        keyframe = _open(source.root, source.version, None, spec, progress)[2][0]
    else:
        nusc = open_or_make(source.root, source.version, progress)
        keyframe = keyframe_of(nusc, source.sample, max_sweeps=_sweeps(spec))
    if png is not None:
        _require_no_input((png,), (keyframe,))
    return keyframe.token, predict(engine, keyframe, backend=backend, png=png, score=score)


def list_keyframes(
    root: Path | None, version: str | None, split: str | None, progress: Tick
) -> list[tuple[str, str, int]]:
    """Token, scene and timestamp (µs) of every keyframe of a split, by default the validation split.

    Raises:
        UdxError: the data cannot be used, or there is no such split.
    """
    nusc = open_or_make(root, version, progress)
    keyframes = load_keyframes(nusc, split or default_splits(nusc.version)[1], max_sweeps=1)
    return [(keyframe.token, keyframe.scene, keyframe.timestamp_us) for keyframe in keyframes]


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
        if png_folder is not None:
            _require_no_input([png_folder / f"{keyframe.token}.png" for keyframe in keyframes], keyframes)
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
        if png is not None:
            _require_no_input((png,) if single else [png / f"{frame.token}.png" for frame in frames], frames)
        found = predict_all(runner, frames, progress=progress, png_folder=None if single else png, score=score)
    if png is not None and single:
        draw_to(png, frames[0], found[frames[0].token], score)
    notes = [
        f"frame {token} has {beyond} points more than the engine's buffer holds: an even sample was used"
        for token, beyond in thinned(frames, manifest.spec)
    ]
    return found, notes


def _require_no_input(pictures: Sequence[Path], frames: Sequence[KeyFrame]) -> None:
    """Refuse to draw over what is read."""
    read = [path for frame in frames for path in (*frame.image_paths, *(sweep.path for sweep in frame.sweeps))]
    taken = overwritten(pictures, read)
    if taken is not None:
        raise UdxError(f"--png would write over {taken}, which is read; name another file or folder")


def _open(
    root: Path | None, version: str | None, split: str | None, spec: SensorSpec, progress: Tick
) -> "tuple[NuScenes, str, Sequence[KeyFrame]]":
    nusc = open_or_make(root, version, progress)
    split = split or default_splits(nusc.version)[1]
    return nusc, split, load_keyframes(nusc, split, max_sweeps=_sweeps(spec))


def _sweeps(spec: SensorSpec) -> int:
    return spec.lidar.sweeps if spec.lidar else 1
