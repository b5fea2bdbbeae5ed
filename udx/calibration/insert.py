"""Write a placement into a graph: weights in 8 bits, and pairs of QuantizeLinear and DequantizeLinear."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from udx.calibration.placement import Placement

if TYPE_CHECKING:
    import onnx

Format = Literal["int8", "fp8"]

LARGEST: Final[Mapping[Format, float]] = {"int8": 127.0, "fp8": 448.0}
"""Largest magnitude of each format: INT8 is symmetric, so −128 is not used; FP8 is E4M3 without infinities."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Largest magnitudes that each activation by name is quantized to; larger ones saturate.

    ``weights`` may say the same of some weights, channel by channel; the others take their own largest.
    """

    activations: Mapping[str, float]
    weights: Mapping[str, NDArray[np.float32]]


def quantize(model: "onnx.ModelProto", placement: Placement, scales: Scales, to: Format) -> "onnx.ModelProto":
    """Insert the pairs of a placement into a copy of an FP32 model; biases stay FP32, and so does all else.

    Zero points are 0. Weights are stored in 8 bits, each channel with a scale of its own.
    """
    import onnx

    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    graph = quantized.graph
    _add(graph, "udx_zero_point", np.zeros((), np.int8), to)
    pairs = {tensor: _pair(graph, tensor, scales.activations[tensor], to) for tensor in placement.tensors}
    weights = {
        layer.weight: _weight(graph, layer.weight, layer.axis, scales.weights.get(layer.weight), to)
        for layer in placement.layers
    }
    nodes = {node.name: node for node in graph.node}
    for layer in placement.layers:
        node = nodes[layer.node]
        node.input[0], node.input[1] = f"{layer.reads}_dequantized", f"{layer.weight}_dequantized"
    for residual in placement.residuals:
        node = nodes[residual.node]
        node.input[list(node.input).index(residual.reads)] = f"{residual.reads}_dequantized"
    _drop_unread(graph, list(weights))
    _rebuild(graph, pairs, list(weights.values()))
    return quantized


def channel_scales(weight: NDArray[np.float32], axis: int, to: Format) -> NDArray[np.float32]:
    """Scale of every channel of a weight, from its largest magnitude; a channel of zeros has scale 1."""
    others = tuple(at for at in range(weight.ndim) if at != axis)
    return scales_of(np.abs(weight).max(axis=others), to)


def scales_of(largest: NDArray[np.float32], to: Format) -> NDArray[np.float32]:
    """Scales that bring the largest magnitudes to the largest of the format; 1 where there is nothing but zeros."""
    scale = np.asarray(largest, np.float32) / np.float32(LARGEST[to])
    return np.where(scale > 0, scale, np.float32(1.0)).astype(np.float32)


def _pair(graph: "onnx.GraphProto", tensor: str, largest: float, to: Format) -> list["onnx.NodeProto"]:
    from onnx import helper

    scale = _add(graph, f"{tensor}_scale", scales_of(np.array(largest, np.float32), to))
    stored, back = f"{tensor}_quantized", f"{tensor}_dequantized"
    return [
        helper.make_node("QuantizeLinear", [tensor, scale, "udx_zero_point"], [stored], f"{tensor}_q"),
        helper.make_node("DequantizeLinear", [stored, scale, "udx_zero_point"], [back], f"{tensor}_dq"),
    ]


def _weight(
    graph: "onnx.GraphProto", name: str, axis: int, largest: NDArray[np.float32] | None, to: Format
) -> "onnx.NodeProto":
    from onnx import helper, numpy_helper

    weight = numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == name))
    scales = channel_scales(weight, axis, to) if largest is None else scales_of(largest, to)
    spread = scales.reshape([-1 if at == axis else 1 for at in range(weight.ndim)])
    stored = _add(graph, f"{name}_quantized", weight / spread, to)
    scale = _add(graph, f"{name}_scale", scales)
    zero = _add(graph, f"{name}_zero_point", np.zeros(len(scales), np.float32), to)
    return helper.make_node("DequantizeLinear", [stored, scale, zero], [f"{name}_dequantized"], f"{name}_dq", axis=axis)


def _add(graph: "onnx.GraphProto", name: str, values: NDArray[Any], to: Format | None = None) -> str:
    """Store a tensor, rounded to a format if one is given; return its name."""
    from onnx import TensorProto, helper, numpy_helper

    if to == "int8":
        values = np.clip(np.rint(values), -LARGEST["int8"], LARGEST["int8"]).astype(np.int8)
    elif to == "fp8":
        kept = helper.make_tensor(
            name, TensorProto.FLOAT8E4M3FN, values.shape, np.asarray(values, np.float32).ravel().tolist()
        )
        graph.initializer.append(kept)
        return name
    graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def _drop_unread(graph: "onnx.GraphProto", weights: list[str]) -> None:
    """Remove FP32 weights that only quantized layers read."""
    read = {name for node in graph.node for name in node.input}
    left = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(left)


def _rebuild(
    graph: "onnx.GraphProto", pairs: Mapping[str, list["onnx.NodeProto"]], weights: list["onnx.NodeProto"]
) -> None:
    """Put every pair right after what writes its tensor, and the weights in front."""
    import onnx

    ordered: list[onnx.NodeProto] = [*weights]
    for value in graph.input:
        ordered += pairs.get(value.name, [])
    for node in graph.node:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        ordered.append(kept)
        for name in node.output:
            ordered += pairs.get(name, [])
    del graph.node[:]
    graph.node.extend(ordered)
