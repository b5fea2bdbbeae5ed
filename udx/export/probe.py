"""Look for values that FP16 cannot hold, on a likely frame and on extreme ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from udx.data.inputs import Tensors
from udx.errors import UdxError
from udx.export.parity import values_of
from udx.export.precision import LARGEST_HALF
from udx.export.rounding import with_rounding
from udx.manifest import Manifest
from udx.runtime.cost import known_dtypes, skeleton_of, with_shapes
from udx.runtime.frames import generated_frame

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The largest magnitude of a value in FP16 on ``frames`` frames, and the tensor that holds it."""

    frames: int
    largest: float
    tensor: str

    def __str__(self) -> str:
        return (
            f"on {self.frames} frames, extreme ones among them, no value overflows, the largest is {self.largest:.3g} "
            f"of {LARGEST_HALF:.0f}"
        )


def probe_halves(exact: "onnx.ModelProto", halved: "onnx.ModelProto", frames: Mapping[str, Tensors]) -> Probe:
    """Run an FP16 graph, rounded as on a backend that computes in FP16, and look at every value that it holds in FP16.

    Args:
        exact: the FP32 graph that ``halved`` was made of.
        halved: the FP16 graph.
        frames: inputs of the graphs, by what they are called in errors.

    Raises:
        UdxError: a value is not finite where it is finite in FP32.
    """
    dtypes = known_dtypes(with_shapes(skeleton_of(halved)).graph)
    written = [name for node in halved.graph.node for name in node.output]
    halves = [name for name in written if dtypes.get(name) == "float16"]
    rounded = with_rounding(halved)
    largest, tensor = 0.0, ""
    for said, tensors in frames.items():
        found = _magnitudes(rounded, [*halves, "boxes", "scores"], tensors)
        lost = [name for name, size in found.items() if not np.isfinite(size)]
        if lost:
            in_fp32 = {name for node in exact.graph.node for name in node.output}
            known = _magnitudes(exact, [name for name in lost if name in in_fp32], tensors)
            lost = [name for name in lost if np.isfinite(known.get(name, 0.0))]
        if lost:
            raise UdxError(
                f"in FP16 {lost[0]} overflows on {said}, and in FP32 it does not, so the export was not written; "
                "export it in FP32, and keep what overflows in FP32 with udx calibrate --precision fp16"
            )
        for name in halves:
            if np.isfinite(found[name]) and found[name] > largest:
                largest, tensor = found[name], name
    return Probe(frames=len(frames), largest=largest, tensor=tensor)


def probing_frames(manifest: Manifest) -> dict[str, Tensors]:
    """A likely frame; one that is white and crowded, every point in one place; one that is black and empty."""
    likely = dict(generated_frame(manifest, seed=0)[0]())
    return {
        "a likely frame": likely,
        "a white, crowded frame": _extreme(likely, pixel=255, crowded=True),
        "a black, empty frame": _extreme(likely, pixel=0, crowded=False),
    }


def _extreme(likely: Tensors, *, pixel: int, crowded: bool) -> Tensors:
    changed: dict[str, Any] = dict(likely)
    if "images" in likely:
        changed["images"] = np.full_like(likely["images"], pixel)
    if "points" in likely:
        # Some LiDARs give intensities up to 255.
        changed["points"] = np.tile(np.array([9.9, 9.9, 0.0, 255.0, 0.5], np.float32), (len(likely["points"]), 1))
        changed["num_points"] = np.array([len(likely["points"]) if crowded else 0], np.int32)
    return changed


def _magnitudes(model: "onnx.ModelProto", names: Sequence[str], tensors: Tensors) -> dict[str, float]:
    """Largest magnitude of tensors; NaN if one holds a value that is not finite."""
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in names:
        watched.graph.node.extend(_watching(name))
    found = values_of(watched, [f"{name}.{what}" for name in names for what in ("largest", "finite")], tensors)
    # Zero times what is not finite is NaN; a maximum may pass NaN over.
    return {name: float(found[f"{name}.largest"] + found[f"{name}.finite"]) for name in names}


def _watching(name: str) -> "Iterator[onnx.NodeProto]":
    from onnx import helper

    yield helper.make_node("Abs", [name], [f"{name}.size"], f"{name}.size")
    yield helper.make_node("ReduceMax", [f"{name}.size"], [f"{name}.largest"], f"{name}.largest", keepdims=0)
    yield helper.make_node("Sub", [name, name], [f"{name}.nothing"], f"{name}.nothing")
    yield helper.make_node("ReduceSum", [f"{name}.nothing"], [f"{name}.finite"], f"{name}.finite", keepdims=0)
