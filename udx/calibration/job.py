"""``udx calibrate``: from an FP32 export to a quantized one, whose loss is measured and told."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from udx.calibration.activations import Magnitudes, record
from udx.calibration.budget import Outcome, meet
from udx.calibration.insert import Format, Scales, quantize
from udx.calibration.judge import Judge
from udx.calibration.placement import Placement, place
from udx.calibration.samples import (
    JUDGED_SAMPLES,
    SAMPLES,
    CalibrationSet,
    choose,
    digest,
    require_training_split,
)
from udx.calibration.sensitivity import Analysis, Probe
from udx.calibration.thresholds import Method, thresholds
from udx.config import to_plain
from udx.data.dataset import default_splits, open_or_make
from udx.data.inputs import Tensors
from udx.data.load import load_sample
from udx.data.nuscenes import load_keyframes
from udx.errors import UdxError
from udx.files import sha256_of, write_with
from udx.manifest import PrecisionPlan, Quantization
from udx.runtime.engine import open_engine
from udx.runtime.frames import generated_frame, tensors_of
from udx.runtime.onnx_file import OnnxFile, read_onnx, sealed
from udx.runtime.onnxruntime_runner import require_runnable

if TYPE_CHECKING:
    from nuscenes import NuScenes

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
"""Opens a progress bar of a title."""

PROBED_FRAMES: Final = 4
"""Frames that each layer's sensitivity is measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What ``udx calibrate`` was asked for; ``None`` leaves a choice to the data.

    ``like``: a calibrated file of the same architecture whose placement and skip list are taken over. ``plain``: do
    without sensitivity and skip list. ``force``: take the validation split if it is asked for. ``learn``: the run that
    the file was exported from, to be trained under quantization for ``steps`` steps, by ``teacher`` or by itself.
    """

    file: Path
    out: Path | None = None
    root: Path | None = None
    version: str | None = None
    split: str | None = None
    method: Method = "percentile"
    precision: Format = "int8"
    samples: int = SAMPLES
    judged: int = JUDGED_SAMPLES
    max_map_drop: float = 0.5
    like: Path | None = None
    plain: bool = False
    force: bool = False
    learn: Path | None = None
    teacher: Path | None = None
    steps: int = 200

    def __post_init__(self) -> None:
        if self.learn is None and self.teacher is not None:
            raise UdxError("--teacher teaches a run under quantization; name that run with --learn")
        if self.learn is not None and self.precision != "int8":
            raise UdxError(f"training under quantization is for INT8, not {self.precision.upper()}; leave --learn out")
        if self.steps < 1:
            raise UdxError(f"training under quantization takes at least one step, not {self.steps}; raise --steps")

    @property
    def target(self) -> Path:
        """The file to write."""
        return self.out or self.file.with_suffix(f".{self.precision}.onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Everything that was found out about a file before it was quantized."""

    file: OnnxFile
    placement: Placement
    found: dict[str, Magnitudes]
    chosen: CalibrationSet
    nusc: "NuScenes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What was written, and why it is as it is; ``analysis`` and ``outcome`` only where they were asked for."""

    path: Path
    source: Path
    plan: PrecisionPlan
    placement: Placement
    scales: Scales
    judged: int
    notes: tuple[str, ...] = ()
    analysis: Analysis | None = None
    outcome: Outcome | None = None

    def to_json(self) -> dict[str, Any]:
        """What ``udx calibrate --json`` writes."""
        plain: dict[str, Any] = {
            "path": str(self.path),
            "sha256": sha256_of(self.path),
            "bytes": self.path.stat().st_size,
            "source": str(self.source),
            "source_bytes": self.source.stat().st_size,
            "plan": to_plain(self.plan),
            "activations": dict(self.scales.activations),
            "blocks": {block: list(nodes) for block, nodes in self.placement.blocks.items()},
            "notes": self.notes,
        }
        if self.analysis is not None:
            plain["sensitivity"] = dataclasses.asdict(self.analysis)
        if self.outcome is not None:
            plain["budget"] = {
                "max_map_drop": self.outcome.budget,
                "met": self.outcome.met,
                "vacuous": self.outcome.vacuous,
                "drop": self.outcome.drop,
                "fp32_mAP": self.outcome.exact_mAP,
                "samples": self.judged,
                "steps": [dataclasses.asdict(step) for step in self.outcome.steps],
                "explained": self.outcome.sentence(),
            }
        return json.loads(json.dumps(plain))  # type: ignore[no-any-return]

    def warnings(self) -> list[str]:
        """What makes the result doubtful."""
        if self.outcome is None or not self.outcome.vacuous:
            return []
        return [f"{self.outcome.sentence()}; calibrate a detector that is trained, on more samples (--judged)"]

    def summary(self) -> str:
        """One line for the terminal."""
        said = [self.description()]
        if self.outcome is not None and not self.outcome.vacuous:
            said.append(self.outcome.sentence())
        return "; ".join([*said, *self.notes])

    def description(self) -> str:
        """Return what was written and how, without what it lost."""
        quantization = self.plan.quantization
        assert quantization is not None
        return (
            f"{self.path}: {len(quantization.layers)} layers in {self.plan.precision.upper()} by {quantization.method} "
            f"over {len(quantization.samples)} samples, {self.path.stat().st_size / 2**20:.1f} MiB "
            f"(FP32: {self.source.stat().st_size / 2**20:.1f})"
        )


def calibrate(request: Request, bar: Bar) -> Calibrated:
    """Calibrate, find the layers that must stay FP32, and write the quantized file.

    Raises:
        UdxError: the file or the data cannot be used; see ``prepare`` and ``quantize_with``.
    """
    calibration = prepare(request, bar)
    return quantize_with(calibration, request, bar)


def prepare(request: Request, bar: Bar) -> Calibration:
    """Read a file, choose its samples, and look at the activations on them.

    Raises:
        UdxError: the file is quantized already, or none of its layers can be; there is no data, or a single sample,
            or it is of the validation split; or an activation is infinite, or 0 everywhere.
    """
    file = read_onnx(request.file)
    require_full_precision(file)
    require_runnable(file)
    placement = place(file.model)
    if not placement.layers:
        raise UdxError(f"{file.path} has no layer that could be quantized; leave it as it is")
    with bar("opening the data") as tick:
        nusc = open_or_make(request.root, request.version, tick)
    chosen = samples_for(nusc, request, file)
    with bar(f"calibrating on {len(chosen.keyframes)} samples") as tick:
        found = record(file.model, placement.tensors, _frames(file, chosen, tick), str(file.path))
    return Calibration(file=file, placement=placement, found=found, chosen=chosen, nusc=nusc)


def quantize_with(calibration: Calibration, request: Request, bar: Bar) -> Calibrated:
    """Choose scales and skip list by the request, and write the file.

    Raises:
        UdxError: the file to be like is of another architecture, or there is nothing to measure mAP on.
    """
    file, placement = calibration.file, calibration.placement
    scales = Scales(thresholds(calibration.found, request.method, request.precision), {})
    analysis = outcome = None
    if request.like is not None:
        placement = placement_like(request.like, placement, file)
    elif not request.plain:
        analysis, outcome = _search(calibration, scales, request, bar)
        placement = outcome.placement
    method: str = request.method
    if request.learn is not None:
        from udx.calibration.learning import learn

        file, scales = learn(calibration, placement, scales, request, bar)
        method = "learned"
    quantization = Quantization(
        method=method,
        source_graph=_structure(file),
        layers=placement.nodes,
        split=calibration.chosen.split,
        samples=calibration.chosen.tokens,
        samples_sha256=digest(calibration.chosen.tokens),
        map_drop=outcome.drop if outcome and request.learn is None else None,
    )
    plan = PrecisionPlan(
        precision=request.precision,
        float32=placement.kept,
        converter=f"udx.calibration, onnxruntime.quantization {metadata.version('onnxruntime')}",
        quantization=quantization,
    )
    write_quantized(file, placement, scales, plan, request.target)
    return Calibrated(
        path=request.target,
        source=calibration.file.path,
        plan=plan,
        placement=placement,
        scales=scales,
        judged=len(calibration.chosen.judged),
        notes=dead_channels(file, placement),
        analysis=analysis,
        outcome=outcome,
    )


def write_quantized(file: OnnxFile, placement: Placement, scales: Scales, plan: PrecisionPlan, out: Path) -> None:
    """Write a file's quantized version with a manifest that tells of it; it appears only if it runs.

    Raises:
        UdxError: it is not valid, or gives no usable boxes.
    """
    import onnx

    assert plan.precision in ("int8", "fp8")
    model = quantize(file.model, placement, scales, plan.precision)
    manifest = sealed(model, dataclasses.replace(file.manifest, precision=plan, metrics={}))
    onnx.checker.check_model(model, full_check=True)
    frame, _ = generated_frame(manifest, seed=0)

    def write_and_run(partial: Path) -> None:
        onnx.save(model, partial)
        with open_engine(partial) as runner:
            runner.detect(frame())

    write_with(out, write_and_run)


def dead_channels(file: OnnxFile, placement: Placement) -> tuple[str, ...]:
    """A sentence on every quantized weight that has channels of nothing but 0, which no scale is needed for."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in file.model.graph.initializer}
    found = []
    for layer in placement.layers:
        weight = np.moveaxis(numpy_helper.to_array(weights[layer.weight]), layer.axis, 0)
        count = int((np.abs(weight).reshape(len(weight), -1).max(axis=1) == 0).sum())
        if count:
            channels, scale = ("channel", "its scale is") if count == 1 else ("channels", "their scales are")
            verb = "is" if count == 1 else "are"
            found.append(f"{count} {channels} of {layer.weight} {verb} constant 0: {scale} 1")
    return tuple(found)


def require_full_precision(file: OnnxFile) -> None:
    """Raise ``UdxError`` unless a file is in FP32 throughout, and its operators of domain ``udx`` are in it."""
    if file.manifest.portable:
        raise UdxError(
            f"{file.path} was exported with --portable, and what must stay exact cannot be told from the rest there; "
            "give the file that udx export writes without --portable"
        )
    precision = file.manifest.precision.precision
    if precision != "fp32":
        what = "in FP16" if precision == "fp16" else f"quantized to {precision.upper()} already"
        raise UdxError(f"{file.path} is {what}; give the FP32 file that udx export wrote")
    paired = next((node.name for node in file.model.graph.node if node.op_type == "QuantizeLinear"), None)
    if paired is not None:
        raise UdxError(f"{file.path} is quantized already (at {paired}); give the FP32 file that udx export wrote")


def samples_for(nusc: "NuScenes", request: Request, file: OnnxFile) -> CalibrationSet:
    """Choose the samples of a request, those that judge only where something is judged.

    Raises:
        UdxError: as ``samples.choose`` and ``samples.require_training_split``.
    """
    spec = file.manifest.spec
    split = request.split or default_splits(nusc.version)[0]
    keyframes = load_keyframes(nusc, split, max_sweeps=spec.lidar.sweeps if spec.lidar else 1)
    if not request.force:
        require_training_split(nusc, split, keyframes)
    return choose(split, keyframes, request.samples, 0 if request.plain or request.like else request.judged)


def placement_like(like: Path, placement: Placement, file: OnnxFile) -> Placement:
    """The placement of another calibrated file, for a file of the same architecture: twins stay twins.

    Raises:
        UdxError: the other is not quantized, or is of another architecture.
    """
    other = read_onnx(like)
    quantization = other.manifest.precision.quantization
    if quantization is None:
        raise UdxError(f"{like} is not quantized, so there is no placement to take over; name what udx calibrate wrote")
    if quantization.source_graph != _structure(file):
        raise UdxError(
            f"{like} was calibrated from another graph than {file.path}: its placement does not fit; give a file of "
            "the same recipe and udx version, or leave --like out"
        )
    taken = placement.without(set(placement.nodes) - set(quantization.layers))
    assert taken.nodes == quantization.layers, "equal graphs have equal nodes"
    return taken


def _search(calibration: Calibration, scales: Scales, request: Request, bar: Bar) -> tuple[Analysis, Outcome]:
    file, source = calibration.file, str(calibration.file.path)
    probed = calibration.chosen.keyframes[:: max(len(calibration.chosen.keyframes) // PROBED_FRAMES, 1)]
    frames = [tensors_of(load_sample(frame, file.manifest.spec), file.manifest) for frame in probed[:PROBED_FRAMES]]
    with bar("measuring the sensitivity of each layer") as tick:
        probe = Probe(file.model, calibration.placement, scales, request.precision, frames, source)
        analysis = probe.analyse(tick)
    with bar("measuring mAP") as tick:
        judge = Judge(calibration.nusc, calibration.chosen, file.manifest, tick)
        exact = judge.metrics(file.model, source).mean_ap

        def measure(placement: Placement) -> float:
            return judge.metrics(quantize(file.model, placement, scales, request.precision), source).mean_ap

        return analysis, meet(calibration.placement, analysis.layers, exact, measure, request.max_map_drop)


def _frames(file: OnnxFile, chosen: CalibrationSet, tick: Callable[[int, int], None]) -> Iterator[tuple[str, Tensors]]:
    for done, keyframe in enumerate(chosen.keyframes, start=1):
        yield keyframe.token, tensors_of(load_sample(keyframe, file.manifest.spec), file.manifest)
        tick(done, len(chosen.keyframes))


def _structure(file: OnnxFile) -> str:
    assert file.manifest.graph is not None, "read_onnx sees to it"
    return file.manifest.graph.sha256
