"""``udx bench --run``: a run in every format that this machine can run: size, accuracy and latency side by side.

Files, and what was found of each, are kept in ``bench`` beneath the run: an interrupted comparison goes on where it
was, and one that is repeated measures anew but makes and evaluates nothing twice.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import udx
from udx.config import from_plain
from udx.data.dataset import default_splits, open_or_make
from udx.data.evaluation import Metrics, evaluate
from udx.data.frame import KeyFrame
from udx.data.nuscenes import load_keyframes
from udx.errors import UdxError
from udx.files import read_json, sha256_of, write_json
from udx.runtime import html, svg
from udx.runtime.conditions import Conditions, conditions
from udx.runtime.cuda_driver import cuda_driver, first_device
from udx.runtime.doubts import doubts_of_stages
from udx.runtime.engine import open_engine
from udx.runtime.environment import Environment, environment
from udx.runtime.frames import keyframe_frames
from udx.runtime.measure import Protocol, measure
from udx.runtime.predict import predict_all
from udx.runtime.runner import Runner
from udx.runtime.show import conditions_table, machine_body
from udx.runtime.statistics import Summary, summarise
from udx.train.run import Run

if TYPE_CHECKING:
    from nuscenes import NuScenes

    from udx.build.watch import Display

Ticking = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar of a title."""

Phases = Callable[[str], "AbstractContextManager[Display]"]
"""Opens a display of steps within steps."""

FRAMES = 20
"""Keyframes that the measurement goes around."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to compare, on which data; ``None`` leaves a choice to the data.

    ``calibration`` are fields of ``udx.calibration.job.Request`` for the INT8 file.
    """

    run: Path
    root: Path | None = None
    version: str | None = None
    split: str | None = None
    threads: int | None = None
    protocol: Protocol = field(default_factory=Protocol)
    calibration: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Format:
    """A way to run a detector: ``make`` writes its file if it has one, ``backend`` runs it, on a GPU or without."""

    name: str
    file: str | None
    make: Callable[[Path], object] | None
    backend: str = "auto"
    gpu: bool = False


@dataclass(slots=True, kw_only=True)
class Row:
    """What was found of a format; ``sha256`` is its file's, ``reason`` is why something is missing."""

    name: str
    bytes: int | None = None
    sha256: str | None = None
    metrics: Metrics | None = None
    network: Summary | None = None
    end_to_end: Summary | None = None
    settings: dict[str, str | int | None] = field(default_factory=dict)
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        stages = {"network": self.network, "end_to_end": self.end_to_end}
        return {
            "format": self.name,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "metrics": self.metrics and self.metrics.to_json(),
            "settings": self.settings,
            **{name: summary and dataclasses.asdict(summary) for name, summary in stages.items()},
            "reason": self.reason,
        }

    def cells(self) -> list[str]:
        """As the terminal's table shows them; a reason is told below it, by ``reasons``."""
        if self.network is None:
            return [self.name, *["–"] * 5]
        figures = (self.metrics.mean_ap, self.metrics.nds) if self.metrics else (None, None)
        return [
            self.name,
            f"{(self.bytes or 0) / 2**20:.1f}",
            *("–" if value is None else f"{100 * value:.2f}" for value in figures),
            *(f"{value:.2f}" for value in (self.network.median, self.network.p99)),
        ]

    def page_cells(self) -> list[str]:
        """As the page's table shows them, in the order of ``PAGE_HEADER``."""
        name, size, mean_ap, nds, median, p99 = self.cells()
        interval = whole = "–"
        if self.network is not None and self.end_to_end is not None:
            low, high = self.network.median_ci95
            interval, whole = f"{low:.2f} to {high:.2f}", f"{self.end_to_end.median:.2f}"
        return [name, mean_ap, nds, median, interval, p99, whole, size]


PAGE_HEADER = [
    "format", "mAP, %", "NDS, %", "network median, ms", "95 % interval", "network p99, ms", "end to end median, ms",
    "MiB",
]  # fmt: skip
HEADER = ["format", "MiB", "mAP, %", "NDS, %", "median, ms", "p99, ms"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All formats of a run, and how they were compared; ``stopped`` says why the measurement ended early, if so.

    ``created`` is UTC in ISO 8601, ``frames`` describes the input, ``environment`` is the machine before the
    measurement, ``warnings`` say what makes the figures less trustworthy, ``command`` is the command line.
    """

    run: str
    created: str
    checkpoint_sha256: str
    frames: str
    environment: Environment
    warnings: tuple[str, ...]
    split: str
    rows: tuple[Row, ...]
    blocks: int
    protocol: Protocol
    before: Conditions
    after: Conditions
    stopped: str | None
    command: str | None = None

    def reasons(self) -> list[str]:
        """Why formats have no figures, as sentences; formats with one reason share a sentence."""
        names: dict[str, list[str]] = {}
        for row in self.rows:
            if row.reason:
                names.setdefault(row.reason, []).append(row.name)
        return [f"{'; '.join(those)}: {reason}" for reason, those in names.items()]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the machine that it was measured on."""
        return {
            "schema": "udx-formats/1",
            "run": self.run,
            "created": self.created,
            "command": self.command,
            "checkpoint_sha256": self.checkpoint_sha256,
            "input": self.frames,
            "warnings": list(self.warnings),
            "split": self.split,
            "formats": [row.to_json() for row in self.rows],
            "protocol": dataclasses.asdict(self.protocol) | {"blocks_measured": self.blocks, "in_flight": 1},
            "environment": dataclasses.asdict(self.environment),
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "complete": self.stopped is None,
            "stopped": self.stopped,
        }


def formats_page(comparison: Comparison) -> str:
    """The comparison as one self-contained HTML document."""
    measured = [row for row in comparison.rows if row.network]
    bars = {row.name: row.network.median for row in measured if row.network}
    machine, protocol = comparison.environment, comparison.protocol
    about = (
        f"Split {comparison.split}; {machine.cpu}, {machine.cores} cores; {html.moment(comparison.created)}. "
        "The formats take turns in each block."
    )
    hashes = [("checkpoint", comparison.checkpoint_sha256), *((row.name, row.sha256 or "") for row in measured)]
    settings = [
        (row.name, ", ".join(f"{name} {value}" for name, value in row.settings.items() if value is not None))
        for row in measured
    ]
    facts = [
        ("input", comparison.frames),
        ("in flight", "one frame"),
        ("warm-up", f"{protocol.warmup} frames a format"),
        ("measured", f"{comparison.blocks} blocks of {protocol.frames} frames a format, in random order"),
        ("seed", str(protocol.seed)),
        ("pinned", "to no core" if protocol.core is None else f"to core {protocol.core}"),
        ("complete", f"no: {comparison.stopped}" if comparison.stopped else "yes"),
    ]
    command = html.paragraph("Measured by:", soft=True) + html.code(comparison.command) if comparison.command else ""
    plot = svg.bar_chart_svg(bars, unit="ms", label="Median network latency by format")
    sections = [
        *([html.Section("Warnings", html.bullets(comparison.warnings))] if comparison.warnings else []),
        html.Section("Side by side", html.table(PAGE_HEADER, [row.page_cells() for row in measured])),
        html.Section("Network, median", html.figure(plot), half=True),
        html.Section("What does not run here, and why", html.bullets(comparison.reasons()), half=True),
        html.Section(
            "Protocol", html.facts(facts) + html.details("Backends", html.facts(settings)), half=True, new_row=True
        ),
        html.Section("Files", html.details("sha256 of each", html.facts(hashes)), half=True),
        html.Section("Machine", machine_body(machine), half=True),
        html.Section("Before and after", conditions_table(comparison.before, comparison.after), half=True),
        html.Section(
            "The figures, and how to repeat them",
            command + html.download(f"{comparison.run}-formats.json", comparison.to_json()),
        ),
    ]
    return html.page(f"Run {comparison.run} in every format", sections, lead=html.paragraph(about, soft=True))


def compare_formats(request: Request, ticking: Ticking, phases: Phases) -> Comparison:
    """Make, evaluate and measure every format of a run; what this machine cannot run gets a reason.

    Raises:
        UdxError: the run or the data cannot be used, or nothing runs.
    """
    run = Run(request.run)
    spec = run.record().config.detector.spec
    with ticking("opening the data") as tick:
        nusc = open_or_make(request.root, request.version, tick)
        split = request.split or default_splits(nusc.version)[1]
        keyframes = load_keyframes(nusc, split, max_sweeps=spec.lidar.sweeps if spec.lidar else 1)
    kept = Kept(run)
    rows: dict[str, Row] = {}
    runners: dict[str, Runner] = {}
    for one in formats_of(run, kept.folder, request, ticking, phases):
        rows[one.name] = row = Row(name=one.name)
        try:
            runner = open_format(one, kept, run, request.threads)
            file = run.checkpoint if runner.path.is_dir() else runner.path
            row.bytes, row.sha256 = file.stat().st_size, sha256_of(file)
            row.settings = dict(runner.settings)
            row.metrics = _metrics_of(one, runner, kept, nusc, split, keyframes, ticking)
        except UdxError as error:
            row.reason = str(error)
        else:
            runners[one.name] = runner
    if not runners:
        raise UdxError(f"no format of {run.folder} runs here: {rows[next(iter(rows))].reason}")
    frames = keyframe_frames(keyframes[:FRAMES], next(iter(runners.values())).manifest)
    machine, before = environment(), conditions()
    with ticking("measuring") as tick:
        measured = measure(list(runners.values()), frames, request.protocol, progress=tick)
    stages = {
        name: {stage: summarise(timings.samples(stage), request.protocol.seed) for stage in timings.stages}
        for name, timings in zip(runners, measured.timings, strict=True)
    }
    for name, found in stages.items():
        rows[name].network, rows[name].end_to_end = found["network"], found["end_to_end"]
    after = conditions()
    return Comparison(
        run=run.folder.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        checkpoint_sha256=sha256_of(run.checkpoint),
        frames=f"{len(frames)} keyframes of split {split}",
        environment=machine,
        warnings=doubts_of_stages(machine, before, after, list(stages.items()), measured.stopped),
        split=split,
        rows=tuple(rows.values()),
        blocks=measured.timings[0].blocks,
        protocol=request.protocol,
        before=before,
        after=after,
        stopped=measured.stopped,
    )


def formats_of(run: Run, folder: Path, request: Request, ticking: Ticking, phases: Phases) -> Iterator[Format]:
    """Every format that udx makes, from the yardstick to the plans; files that others are made of come first."""
    fp32, fp16, int8 = (folder / f"student.{name}.onnx" for name in ("fp32", "fp16", "int8"))

    def export(precision: Any) -> Callable[[Path], object]:
        from udx.export.onnx_export import export_run

        return lambda out: export_run(run, out, precision=precision)

    def calibrate(out: Path) -> object:
        from udx.calibration.job import Request as Calibration
        from udx.calibration.job import calibrate

        what = Calibration(file=fp32, out=out, root=request.root, version=request.version, **request.calibration)
        return calibrate(what, ticking)

    def plan(source: Path, **settings: Any) -> Callable[[Path], object]:
        def make(out: Path) -> object:
            from udx.build.job import Request as Build
            from udx.build.job import build

            with phases(f"building {out.name}") as display:
                return build(Build(file=source, out=out, **settings), display)

        return make

    yield Format("torch", None, None, "torch")
    yield Format("ONNX FP32", fp32.name, export("fp32"))
    yield Format("ONNX FP16", fp16.name, export("fp16"))
    yield Format("ONNX INT8", int8.name, calibrate)
    yield Format("partitioned plan", "student.cpu.plan", plan(fp32, segments="onnxruntime"))
    yield Format("torch, CUDA", None, None, "torch-cuda", gpu=True)
    yield Format("ONNX FP32, CUDA", fp32.name, export("fp32"), "onnxruntime-cuda", gpu=True)
    for backend in ("tensorrt", "tensorrt-rtx"):
        for source in (fp32, fp16, int8):
            precision = source.name.split(".")[1]
            name = f"{backend} {precision.upper()}"
            yield Format(name, f"student.{precision}.{backend}.plan", plan(source, backend=backend), gpu=True)


class Kept:
    """What earlier comparisons of a run made and found: valid for its checkpoint and this udx."""

    def __init__(self, run: Run) -> None:
        self.folder = run.folder / "bench"
        self._path = self.folder / "formats.json"
        self._key = {"checkpoint_sha256": sha256_of(run.checkpoint), "udx": udx.__version__}
        known = read_json(self._path) if self._path.is_file() else {}
        same = isinstance(known, dict) and known.get("key") == self._key
        self._files: dict[str, str] = dict(known["files"]) if same else {}
        self._metrics: dict[str, Any] = dict(known["metrics"]) if same else {}

    def has(self, path: Path) -> bool:
        """Whether a file is there as it was made."""
        return path.is_file() and self._files.get(path.name) == sha256_of(path)

    def made(self, path: Path) -> None:
        """Remember a file that was made."""
        self._files[path.name] = sha256_of(path)
        self._write()

    def metrics(self, what: str) -> Metrics | None:
        """What an evaluation found."""
        found = self._metrics.get(what)
        return from_plain(Metrics, found, f"{what} in {self._path}") if found else None

    def found(self, what: str, metrics: Metrics) -> None:
        """Remember what an evaluation found."""
        self._metrics[what] = dataclasses.asdict(metrics)
        self._write()

    def _write(self) -> None:
        write_json(self._path, {"key": self._key, "files": self._files, "metrics": self._metrics})


def open_format(one: Format, kept: Kept, run: Run, threads: int | None) -> Runner:
    """Open a format of a run, whose file is made if it is not there yet.

    Raises:
        UdxError: this machine has not what the format needs, or it cannot be made or opened.
    """
    if one.gpu:
        first_device(cuda_driver())
    path = run.folder
    if one.file is not None and one.make is not None:
        path = kept.folder / one.file
        if not kept.has(path):
            one.make(path)
            kept.made(path)
    return open_engine(path, one.backend, threads)


def _metrics_of(
    one: Format,
    runner: Runner,
    kept: Kept,
    nusc: "NuScenes",
    split: str,
    keyframes: Sequence[KeyFrame],
    ticking: Ticking,
) -> Metrics:
    what = f"{one.name} on {split} of {Path(nusc.dataroot).resolve()} {nusc.version}"
    metrics = kept.metrics(what)
    if metrics is None:
        with ticking(f"evaluating {one.name}") as tick, runner:
            found = predict_all(runner, keyframes, progress=tick)
        metrics = evaluate(nusc, split, found, keyframes, modality=runner.manifest.spec.modality)
        kept.found(what, metrics)
    return metrics
