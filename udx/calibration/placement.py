"""Which layers of a graph are quantized, and at which tensors: read off its wiring, never off its weights or data.

TensorRT makes an INT8 kernel of a layer whose input and weights both come from a DequantizeLinear. So every quantized
layer reads its activation through one pair of Q and DQ, right at its input; layers that read the same tensor share the
pair. What lies before a pair follows from that:

- a layer's own output has no pair: its activation function runs on the accumulator, and the pair of the next layer
  becomes the output of the kernel;
- of an addition the *residual* operand has a pair, the one that a layer computes last has none: the layer's kernel
  adds the residual before it rounds;
- a pair after a concatenation is one scale for all that is joined, so that TensorRT moves it before the join, and the
  layers write into the joined map; the same goes for a maximum pool and for what only moves values;
- operators of domain ``udx`` read and write floating point: there is no pair at their inputs.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from udx.export.precision import Wiring, fp16_plan

if TYPE_CHECKING:
    import onnx

LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
HEADS: Final = "heads"
SKIPPED: Final = "sensitive"


@dataclass(frozen=True, slots=True)
class Layer:
    """A quantized layer: its node, the activation and the weight that it reads, and the weight's axis of channels.

    ``block`` is the part of the network that it belongs to, by its weight's name.
    """

    node: str
    reads: str
    weight: str
    axis: int
    block: str


@dataclass(frozen=True, slots=True)
class Residual:
    """The operand of an addition that gets a pair, so that ``layer``, which computes the other, can fuse with it."""

    node: str
    reads: str
    layer: str


@dataclass(frozen=True, slots=True)
class Placement:
    """What is quantized; ``kept`` names the layers that are not, by reason.

    ``points`` and ``decoding`` are those of the FP16 plan; ``heads`` the last layers, whose maps the boxes are read
    from; ``sensitive`` what ``without`` left out.
    """

    layers: tuple[Layer, ...]
    residuals: tuple[Residual, ...]
    kept: dict[str, tuple[str, ...]]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the quantized layers, in the graph's order."""
        return tuple(layer.node for layer in self.layers)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The activations that get a pair, each once."""
        of_layers, of_residuals = (layer.reads for layer in self.layers), (item.reads for item in self.residuals)
        return tuple(dict.fromkeys([*of_layers, *of_residuals]))

    @property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Names of the quantized layers of each block."""
        found: dict[str, tuple[str, ...]] = {}
        for layer in self.layers:
            found[layer.block] = (*found.get(layer.block, ()), layer.node)
        return found

    def only(self, nodes: Collection[str]) -> "Placement":
        """The part of the placement that quantizes these layers; nothing is said of the others."""
        return replace(
            self,
            layers=tuple(layer for layer in self.layers if layer.node in nodes),
            residuals=tuple(item for item in self.residuals if item.layer in nodes),
        )

    def without(self, nodes: Collection[str]) -> "Placement":
        """The placement with some of its layers left as they are, as ``sensitive``."""
        left = tuple(node for node in self.nodes if node in nodes)
        if not left:
            return self
        rest = self.only([node for node in self.nodes if node not in nodes])
        return replace(rest, kept={**self.kept, SKIPPED: (*self.kept.get(SKIPPED, ()), *left)})


def place(model: "onnx.ModelProto") -> Placement:
    """Decide what of an FP32 export is quantized."""
    wiring = Wiring.of(model)
    weights = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    floating = fp16_plan(model)
    exact = {name: reason for reason in ("points", "decoding") for name in floating[reason]}
    last = {at for at in range(len(wiring.nodes)) if wiring.is_layer(at) and not wiring.before_layer[at]}
    layers: list[Layer] = []
    kept: dict[str, tuple[str, ...]] = {}
    for at, node in enumerate(wiring.nodes):
        if node.op_type not in LAYERS or weights.get(node.input[1], 0) < 2 or node.input[0] in weights:
            continue
        reason = HEADS if at in last else exact.get(node.name)
        if reason is None:
            axis = _channel_axis(node)
            layers.append(Layer(node.name, node.input[0], node.input[1], axis, block_of(node.input[1])))
        else:
            kept[reason] = (*kept.get(reason, ()), node.name)
    return Placement(tuple(layers), _residuals(wiring, frozenset(layer.node for layer in layers), weights), kept)


def block_of(weight: str) -> str:
    """The part of a network that a weight belongs to: its module's path up to the first number in it.

    ``detector.camera.backbone.encoder.stages.2.layers.0.shortcut.convolution.weight`` is of the block
    ``camera.backbone.encoder.stages.2``.
    """
    parts = weight.removeprefix("detector.").split(".")
    number = next((at for at, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[: number + 1] if number is not None else parts[:-1] or parts)


def _channel_axis(node: "onnx.NodeProto") -> int:
    """Axis of the output channels in a layer's weight."""
    if node.op_type == "Gemm":
        return 0 if any(attribute.name == "transB" and attribute.i for attribute in node.attribute) else 1
    return 0 if node.op_type == "Conv" else 1


def _residuals(wiring: Wiring, quantized: frozenset[str], weights: Collection[str]) -> tuple[Residual, ...]:
    producer: dict[str, int] = {name: at for at, node in enumerate(wiring.nodes) for name in node.output if name}
    depth = _depths(wiring)
    found = []
    for node in wiring.nodes:
        if node.op_type != "Add" or any(name in weights or name not in producer for name in node.input):
            continue
        operands = sorted(node.input, key=lambda name: depth[producer[name]])
        computed = wiring.nodes[producer[operands[1]]]
        if computed.name in quantized and len(set(operands)) == 2:
            found.append(Residual(node.name, operands[0], computed.name))
    return tuple(found)


def _depths(wiring: Wiring) -> list[int]:
    """Layers on the longest way to each node, its own included."""
    depths: list[int] = []
    for at in range(len(wiring.nodes)):
        before: Any = max((depths[source] for source in wiring.sources[at]), default=0)
        depths.append(before + wiring.is_layer(at))
    return depths
