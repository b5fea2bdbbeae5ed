"""FP16 that knows the data: what comes near the largest half on real samples stays FP32, besides the plan."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from udx.calibration.activations import values
from udx.calibration.job import require_full_precision
from udx.calibration.samples import SAMPLES, choose, require_training_split
from udx.config import to_plain
from udx.data.dataset import default_splits, open_or_make
from udx.data.load import load_sample
from udx.data.nuscenes import load_keyframes
from udx.errors import UdxError
from udx.export.precision import LARGEST_HALF, Wiring, fp16_plan, to_fp16
from udx.files import sha256_of, write_with
from udx.manifest import PrecisionPlan
from udx.runtime.engine import open_engine
from udx.runtime.frames import generated_frame, tensors_of
from udx.runtime.onnx_file import OnnxFile, read_onnx, sealed
from udx.runtime.onnxruntime_runner import require_runnable

if TYPE_CHECKING:
    import onnx

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

HEADROOM: Final = 8.0
"""What is measured on some samples may be exceeded on others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to convert by which samples; ``like``: a file of the same architecture whose exceptions are taken over."""

    file: Path
    out: Path | None = None
    root: Path | None = None
    version: str | None = None
    split: str | None = None
    samples: int = SAMPLES
    like: Path | None = None
    force: bool = False

    @property
    def target(self) -> Path:
        """The file to write."""
        return self.out or self.file.with_suffix(".fp16.onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Halved:
    """What was written, and the largest magnitude of every tensor that was looked at."""

    path: Path
    source: Path
    plan: PrecisionPlan
    ranges: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """What ``udx calibrate --precision fp16 --json`` writes."""
        return {
            "path": str(self.path),
            "sha256": sha256_of(self.path),
            "bytes": self.path.stat().st_size,
            "source": str(self.source),
            "plan": to_plain(self.plan),
            "ranges": self.ranges,
        }

    def warnings(self) -> list[str]:
        """What makes the result doubtful: nothing."""
        return []

    def summary(self) -> str:
        """One line for the terminal."""
        count = len(self.plan.float32.get("range", ()))
        largest = f", largest value {max(self.ranges.values()):.3g}" if self.ranges else ""
        return f"{self.path}: FP16, {count} nodes in FP32 because of their values' range{largest}"


def halve(request: Request, bar: Bar) -> Halved:
    """Scan the activations on samples of the training split, and convert with what must stay FP32.

    Raises:
        UdxError: the file is not FP32, or the data cannot be used, or the other file is no twin.
    """
    file = read_onnx(request.file)
    require_full_precision(file)
    ranges: dict[str, float] = {}
    if request.like is not None:
        plan = read_onnx(request.like).manifest.precision
        if plan.precision != "fp16":
            raise UdxError(f"{request.like} is not in FP16, so there is nothing to take over; name an FP16 file")
        beyond = frozenset(plan.float32.get("range", ()))
    else:
        require_runnable(file)
        ranges = _scan(file, request, bar)
        beyond = out_of_range(file.model, ranges)
    model, plan = to_fp16(file.model, beyond)
    manifest = sealed(model, dataclasses.replace(file.manifest, precision=plan, metrics={}))
    if request.like is not None and manifest.graph != read_onnx(request.like).manifest.graph:
        raise UdxError(
            f"{request.like} is of another graph than {file.path}: its exceptions do not fit; give a file of the same "
            "recipe and udx version, or leave --like out"
        )
    _write(model, request.target)
    return Halved(path=request.target, source=file.path, plan=plan, ranges=ranges)


def out_of_range(model: "onnx.ModelProto", ranges: dict[str, float]) -> frozenset[str]:
    """Names of the nodes that write or read a tensor whose largest magnitude FP16 does not hold with ``HEADROOM``."""
    large = {name for name, largest in ranges.items() if not largest * HEADROOM <= LARGEST_HALF}
    return frozenset(node.name for node in model.graph.node if large & {*node.input, *node.output})


def scanned(model: "onnx.ModelProto") -> tuple[str, ...]:
    """The tensors that would be halves: what nodes write that FP16's own plan does not keep."""
    wiring = Wiring.of(model)
    exact = {name for names in fp16_plan(model).values() for name in names}
    floating = [node for at, node in enumerate(wiring.nodes) if at in wiring.floats and node.name not in exact]
    return tuple(name for node in floating for name in node.output if name)


def _scan(file: OnnxFile, request: Request, bar: Bar) -> dict[str, float]:
    spec = file.manifest.spec
    with bar("opening the data") as tick:
        nusc = open_or_make(request.root, request.version, tick)
    split = request.split or default_splits(nusc.version)[0]
    keyframes = load_keyframes(nusc, split, max_sweeps=spec.lidar.sweeps if spec.lidar else 1)
    if not request.force:
        require_training_split(nusc, split, keyframes)
    chosen = choose(split, keyframes, request.samples, 0).keyframes
    frames = (tensors_of(load_sample(keyframe, spec), file.manifest) for keyframe in chosen)
    names = scanned(file.model)
    found = dict.fromkeys(names, 0.0)
    with bar(f"scanning activations on {len(chosen)} samples") as tick:
        for done, arrays in enumerate(values(file.model, names, frames, str(file.path)), start=1):
            for name, data in arrays.items():
                largest = float(np.abs(data).max(initial=0.0)) if data.dtype.kind == "f" else 0.0
                if not np.isfinite(largest):
                    raise UdxError(
                        f"{file.path} computes infinities or NaN in {name} on sample {chosen[done - 1].token}: look "
                        "into that sample with udx predict, or train again with a lower rate"
                    )
                found[name] = max(found[name], largest)
            tick(done, len(chosen))
    return found


def _write(model: "onnx.ModelProto", out: Path) -> None:
    import onnx

    onnx.checker.check_model(model, full_check=True)

    def write_and_run(partial: Path) -> None:
        onnx.save(model, partial)
        with open_engine(partial) as runner:
            frame, _ = generated_frame(runner.manifest, seed=0)
            runner.detect(frame())

    write_with(out, write_and_run)
