"""The FP16 variant of an exported detector: a plan of what stays FP32 and why, and the file that follows it.

The plan is read off the graph's wiring, never off its weights: two detectors of one recipe have one plan, whatever
they learned. ONNX Runtime's converter applies it; what the weights lose by it is counted and reported.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from udx.manifest import PrecisionPlan
from udx.operators import DOMAIN, PillarMax
from udx.runtime.cost import known_dtypes, skeleton_of, with_shapes

if TYPE_CHECKING:
    import onnx

LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
MOVERS: Final = frozenset(
    {"Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape", "Slice", "Split"}
    | {"Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that only move values: whatever they move is as exact after them as before."""

SUMS: Final = frozenset(
    {"Softmax", "LogSoftmax", "LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization"}
)
LARGEST_HALF: Final = 65504.0
SMALLEST_HALF: Final = 2.0**-24


def fp16_plan(model: "onnx.ModelProto") -> dict[str, tuple[str, ...]]:
    """Names of the nodes that stay FP32, by reason; only nodes that touch floating-point tensors are listed.

    ``points``: everything from the coordinates to the pillars' map. A coordinate decides which cell a point is in,
    and beyond 32 m halves are 3 cm apart. ``pixels``: normalisation of the images. ``sums``: softmax and
    normalisations, which add many terms. ``decoding``: everything after the last layers that computes; what only
    moves the head maps' values leaves them as they are, and stays FP16.
    """
    wiring = Wiring.of(model)
    points = wiring.upstream(wiring.of_type(PillarMax.name, DOMAIN))
    rest = frozenset(range(len(wiring.nodes))) - points
    before = wiring.without_last_movers({at for at in rest if not wiring.after_layer[at]})
    sums = {at for at in rest if wiring.nodes[at].op_type in SUMS}
    after = wiring.without_first_movers({at for at in rest if not wiring.before_layer[at] and not wiring.is_layer(at)})
    return {
        "points": wiring.names(points),
        "pixels": wiring.names(before),
        "sums": wiring.names(sums - before - after),
        "decoding": wiring.names(after - before),
    }


def to_fp16(model: "onnx.ModelProto", beyond: Collection[str] = ()) -> tuple["onnx.ModelProto", PrecisionPlan]:
    """Convert an FP32 export; inputs and outputs keep their types.

    ``beyond`` names nodes that stay FP32 because of their values' range, besides those of ``fp16_plan``. ``model`` is
    left as it is.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    plan = fp16_plan(model)
    exact = {name for names in plan.values() for name in names}
    large = tuple(node.name for node in model.graph.node if node.name in beyond and node.name not in exact)
    plan |= {"range": large} if large else {}
    exact |= {*large}
    source = onnx.ModelProto()
    source.CopyFrom(model)
    _own_constants(source.graph, exact)
    _describe_again(source, model)
    halved = OnnxModel(
        convert_float_to_float16(
            source,
            min_positive_val=SMALLEST_HALF,
            max_finite_val=LARGEST_HALF,
            keep_io_types=True,
            op_block_list=[],
            node_block_list=sorted(exact),
        )
    )
    # The converter leaves a cast to FP16 and back between two FP32 nodes: without these steps coordinates would be
    # rounded on their way from one to the next.
    halved.disable_shape_inference()
    halved.remove_cascaded_cast_nodes()
    halved.remove_useless_cast_nodes()
    halved.topological_sort()
    converted = halved.model
    _restore_names(converted.graph, exact)
    _describe_again(converted, model)
    # Of a chain of casts only the last is left, under its own name.
    left = {node.name for node in converted.graph.node}
    assert all(node.op_type == "Cast" for node in model.graph.node if node.name in exact - left)
    saturated, raised = _losses(model, converted)
    version = metadata.version("onnxruntime")
    return converted, PrecisionPlan(
        precision="fp16",
        float32={reason: tuple(name for name in names if name in left) for reason, names in plan.items()},
        converter=f"onnxruntime.transformers.float16 {version}",
        saturated=saturated,
        raised=raised,
    )


def last_layers(model: "onnx.ModelProto") -> tuple[str, ...]:
    """Outputs of the layers that no layer follows: the head maps."""
    wiring = Wiring.of(model)
    last = [at for at in range(len(wiring.nodes)) if wiring.is_layer(at) and not wiring.before_layer[at]]
    return tuple(wiring.nodes[at].output[0] for at in last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """A graph's nodes by position: what each reads, and where the layers are.

    ``after_layer``: a node that reads what a layer made; ``before_layer``: one whose output a layer reads, each by
    way of other nodes or at once. A layer holds weights or is an operator of domain ``udx``. ``floats``: nodes that
    read or write a floating-point tensor.
    """

    nodes: tuple[Any, ...]
    sources: tuple[frozenset[int], ...]
    after_layer: tuple[bool, ...]
    before_layer: tuple[bool, ...]
    floats: frozenset[int]

    @classmethod
    def of(cls, model: "onnx.ModelProto") -> "Wiring":
        """Read a model's graph."""
        nodes = tuple(model.graph.node)
        producer = {name: at for at, node in enumerate(nodes) for name in node.output if name}
        sources = tuple(frozenset(producer[name] for name in node.input if name in producer) for node in nodes)
        dtypes = known_dtypes(with_shapes(skeleton_of(model)).graph)
        is_float = {name for name, dtype in dtypes.items() if dtype == "float32"}
        wiring = cls(
            nodes=nodes,
            sources=sources,
            after_layer=(),
            before_layer=(),
            floats=frozenset(at for at, node in enumerate(nodes) if is_float & {*node.input, *node.output}),
        )
        return replace(wiring, after_layer=wiring._after_layer(), before_layer=wiring._before_layer())

    def is_layer(self, at: int) -> bool:
        """Whether a node holds weights, or is an operator of domain ``udx``."""
        return self.nodes[at].op_type in LAYERS or self.nodes[at].domain == DOMAIN

    def of_type(self, op_type: str, domain: str) -> frozenset[int]:
        """Positions of all nodes of a type."""
        return frozenset(at for at, node in enumerate(self.nodes) if (node.op_type, node.domain) == (op_type, domain))

    def names(self, positions: Iterable[int]) -> tuple[str, ...]:
        """Names of those among some nodes that touch floating-point tensors, in the graph's order."""
        return tuple(self.nodes[at].name for at in sorted(positions) if at in self.floats)

    def upstream(self, targets: frozenset[int]) -> frozenset[int]:
        """The nodes that some nodes depend on, and these."""
        found = set(targets)
        for at in reversed(range(len(self.nodes))):
            if at in found:
                found |= self.sources[at]
        return frozenset(found)

    def without_first_movers(self, region: set[int]) -> set[int]:
        """A region without the nodes at its entry that only move what they read."""
        left = set(region)
        for at in sorted(region):
            if self.nodes[at].op_type in MOVERS and not (self.sources[at] & left & self.floats):
                left.remove(at)
        return left

    def without_last_movers(self, region: set[int]) -> set[int]:
        """A region without the nodes at its exit that only move what they read."""
        left = set(region)
        for at in sorted(region, reverse=True):
            readers = {reader for reader in range(at + 1, len(self.nodes)) if at in self.sources[reader]}
            if self.nodes[at].op_type in MOVERS and not readers & left:
                left.remove(at)
        return left

    def _after_layer(self) -> tuple[bool, ...]:
        after: list[bool] = []
        for at in range(len(self.nodes)):
            after.append(any(after[source] or self.is_layer(source) for source in self.sources[at]))
        return tuple(self.is_layer(at) or found for at, found in enumerate(after))

    def _before_layer(self) -> tuple[bool, ...]:
        before = [False] * len(self.nodes)
        for at in reversed(range(len(self.nodes))):
            if before[at] or self.is_layer(at):
                for source in self.sources[at]:
                    before[source] = True
        return tuple(before)


def _own_constants(graph: "onnx.GraphProto", exact: set[str]) -> None:
    """Give FP32 nodes constants of their own where others read them too: the converter would halve them for both."""
    halved = {name for node in graph.node if node.name not in exact for name in node.input}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for at, name in enumerate(node.input):
            if node.name in exact and name in halved and name in constants:
                own = f"{name}_exact"
                if own not in constants:
                    constants[own] = graph.initializer.add()
                    constants[own].CopyFrom(constants[name])
                    constants[own].name = own
                node.input[at] = own


def _restore_names(graph: "onnx.GraphProto", exact: set[str]) -> None:
    """Give what FP32 nodes write its own name again; the converter leaves that to the FP16 copy, if there is one."""
    suffix = "_cast_to_fp16"
    written = [name for node in graph.node if node.name in exact for name in node.output if name.endswith(suffix)]
    names = {name: name.removesuffix(suffix) for name in written}
    names |= {own: f"{own}_fp16" for own in names.values()}
    for node in graph.node:
        for given in (node.input, node.output):
            for at, name in enumerate(given):
                given[at] = names.get(name, name)


def _describe_again(model: "onnx.ModelProto", original: "onnx.ModelProto") -> None:
    """Declare the types that the graph's values have now, in the shapes that ``original`` declares, and no others."""
    import onnx

    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True).graph.value_info
    now = {value.name: value.type.tensor_type.elem_type for value in inferred}
    for value in original.graph.value_info:
        if value.name in now:
            model.graph.value_info.add().CopyFrom(value)
            model.graph.value_info[-1].type.tensor_type.elem_type = now[value.name]
    model.CopyFrom(onnx.shape_inference.infer_shapes(model, check_type=True, data_prop=True))


def _losses(before: "onnx.ModelProto", after: "onnx.ModelProto") -> tuple[int, int]:
    """How many weights were beyond the largest half, and how many below the smallest."""
    import onnx

    halves = {tensor.name for tensor in after.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    saturated = raised = 0
    for tensor in before.graph.initializer:
        if tensor.name in halves:
            size = np.abs(onnx.numpy_helper.to_array(tensor))
            saturated += int((size > LARGEST_HALF).sum())
            raised += int(((size > 0) & (size < SMALLEST_HALF)).sum())
    return saturated, raised
