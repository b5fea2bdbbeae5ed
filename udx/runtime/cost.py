"""What a graph costs whatever its weights are: multiply-accumulates, and the memory of its activations.

Shapes are inferred on a skeleton of the graph that holds no weights, so this takes milliseconds for any model.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from udx.operators import DOMAIN, NAMES, TensorType, operator_of
from udx.runtime.listing import constants_of, is_standard, nodes_inside
from udx.tensors import TensorSpec, dtype_name, spec_of_tensor, tensor_spec, value_info_of

if TYPE_CHECKING:
    import onnx

MAC_RULE: Final = (
    "multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul, functions inlined; one per weight and output "
    "element (padding included); additions of a bias, activations, gathers and element-wise operators count nothing"
)
PEAK_RULE: Final = (
    "largest sum of the bytes of all tensors that are alive at once, nodes run in the file's order, each udx node as "
    "one kernel; inputs live throughout and outputs to the end; weights do not count, and reshaping takes no memory"
)
SMALL_BYTES: Final = 4096
"""Constants up to this size stay in a skeleton: shapes, axes and indices, which the inference of shapes reads."""

Shape = tuple[int, ...]


def skeleton_of(model: "onnx.ModelProto", sizes: Mapping[str, int] | None = None) -> "onnx.ModelProto":
    """Copy a model without its weights' data; ``sizes`` fixes dimensions that its inputs leave open, by name."""
    import onnx

    graph = model.graph
    bones = onnx.ModelProto(ir_version=model.ir_version)
    bones.opset_import.extend(model.opset_import)
    bones.functions.extend(model.functions)
    bones.graph.name = graph.name
    bones.graph.node.extend(graph.node)
    bones.graph.input.extend(graph.input)
    bones.graph.output.extend(graph.output)
    bones.graph.value_info.extend(graph.value_info)
    for tensor in graph.initializer:
        if tensor.ByteSize() <= SMALL_BYTES:
            bones.graph.initializer.append(tensor)
        else:
            bones.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    if sizes:
        fix_sizes(bones.graph, sizes)
    return bones


def with_shapes(skeleton: "onnx.ModelProto", *, inline: bool = False) -> "onnx.ModelProto":
    """Infer all shapes; with ``inline`` the functions' bodies take the place of the nodes that call them.

    Raises:
        UdxError: a node of domain ``udx`` lacks an attribute, or reads types that it does not take.
    """
    import onnx
    from onnx import inliner

    if inline and skeleton.functions:
        return onnx.shape_inference.infer_shapes(inliner.inline_local_functions(skeleton), data_prop=True)
    declared: set[str] = set()
    while True:
        skeleton = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
        found = [spec for spec in _written_by_operators(skeleton.graph) if spec.name not in declared]
        if not found:
            return skeleton
        # What ONNX makes of a function's body is less than what its kernel is known to write.
        declared |= {spec.name for spec in found}
        kept = [value for value in skeleton.graph.value_info if value.name not in declared]
        del skeleton.graph.value_info[:]
        skeleton.graph.value_info.extend([*kept, *map(value_info_of, found)])


def known_tensors(graph: "onnx.GraphProto") -> dict[str, TensorSpec]:
    """Every tensor of a graph whose type and shape are known, weights included, by name."""
    found = [tensor_spec(value) for value in (*graph.input, *graph.output, *graph.value_info)]
    known = {spec.name: spec for spec in found if _is_known(spec)}
    return known | {name: spec_of_tensor(tensor) for name, tensor in constants_of(graph).items()}


def _is_known(spec: TensorSpec) -> bool:
    """Whether type and shape of a tensor are known; what is no tensor at all has neither."""
    return not spec.dtype.startswith("unknown") and all(length >= 0 for length in spec.shape)


def known_dtypes(graph: "onnx.GraphProto") -> dict[str, str]:
    """Type of every tensor of a graph where it is known, whether its shape is or not."""
    found = [tensor_spec(value) for value in (*graph.input, *graph.output, *graph.value_info)]
    constants = {name: dtype_name(tensor.data_type) for name, tensor in constants_of(graph).items()}
    return {spec.name: spec.dtype for spec in found} | constants


def count_macs(graph: "onnx.GraphProto") -> tuple[int, tuple[str, ...]]:
    """Count by ``MAC_RULE``; the second value names nodes with unknown shapes, or run under a condition."""
    tensors = known_tensors(graph)
    total, uncounted = 0, []
    for node in graph.node:
        if node.op_type not in _MACS_OF or not is_standard(node):
            continue
        specs = [tensors.get(name) for name in (*node.input[:2], node.output[0])]
        shapes = [spec.shape for spec in specs if spec is not None]
        if len(shapes) < len(specs):
            uncounted.append(f"{node.op_type} {node.name or node.output[0]}")
        else:
            total += _MACS_OF[node.op_type](node, *shapes)
    branches = [inner for node in graph.node for inner in nodes_inside(node)]
    uncounted += [f"{node.op_type} in a branch" for node in branches if node.op_type in _MACS_OF]
    return total, tuple(uncounted)


def peak_activation(graph: "onnx.GraphProto") -> tuple[int, tuple[str, ...]]:
    """Bytes by ``PEAK_RULE``; the second value names tensors whose size is not known."""
    tensors = known_tensors(graph)
    home = _homes(graph, tensors)
    sizes = {name: tensors[name].num_bytes for name in set(home.values()) if name in tensors}
    last_read = {home[name]: step for step, node in enumerate(graph.node) for name in node.input if name in home}
    kept = {home[value.name] for value in (*graph.input, *graph.output) if value.name in home}
    alive = {home[value.name] for value in graph.input if value.name in home}
    peak = held = sum(sizes.get(name, 0) for name in alive)
    for step, node in enumerate(graph.node):
        new = {home[name] for name in node.output if name in home} - alive
        alive |= new
        held += sum(sizes.get(name, 0) for name in new)
        peak = max(peak, held)
        gone = {name for name in alive - kept if last_read.get(name, -1) <= step}
        alive -= gone
        held -= sum(sizes.get(name, 0) for name in gone)
    return peak, tuple(sorted(set(home.values()) - set(sizes)))


def _homes(graph: "onnx.GraphProto", tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
    """The tensor in whose memory each activation lies: its own, or its source's where a node only looks at it anew."""
    weights = constants_of(graph)
    home = {value.name: value.name for value in graph.input if value.name not in weights}
    for node in graph.node:
        shared = _shared(node, tensors)
        for name in node.output:
            if name and name not in weights:
                home[name] = home.get(shared.get(name, name), name)
    return home


def _shared(node: "onnx.NodeProto", tensors: Mapping[str, TensorSpec]) -> dict[str, str]:
    """Outputs that lie in the memory of an input, and that input."""
    if is_standard(node) and node.op_type in _VIEWS:
        return {node.output[0]: node.input[0]}
    known = [tensors[name].dtype for name in node.input if name in tensors]
    if node.domain != DOMAIN or node.op_type not in NAMES or len(known) < len(node.input):
        return {}
    operator = operator_of(node)
    outputs = zip(node.output, operator.outputs(known), strict=False)
    return {name: node.input[operator.inputs.index(output.aliases)] for name, output in outputs if output.aliases}


def _written_by_operators(graph: "onnx.GraphProto") -> Iterator[TensorSpec]:
    """Outputs without a known shape of ``udx`` nodes whose inputs have one; one's outputs may be the next's inputs."""
    known = known_tensors(graph)
    for node in graph.node:
        unknown = any(name not in known for name in node.output)
        if node.domain != DOMAIN or node.op_type not in NAMES or not unknown or any(n not in known for n in node.input):
            continue
        given = [known[name] for name in node.input]
        launch = operator_of(node).launch([TensorType(spec.dtype, spec.shape) for spec in given])
        sizes = {tensor.name: spec.shape for tensor, spec in zip(launch.inputs, given, strict=True)}
        shapes = launch.outputs_for(sizes)
        for name, output, shape in zip(node.output, launch.outputs, shapes, strict=True):
            known[name] = TensorSpec(name, shape, output.dtype)
            yield known[name]


def fix_sizes(graph: "onnx.GraphProto", sizes: Mapping[str, int]) -> None:
    """Fix the dimensions that a graph's inputs leave open, by name, and forget the shapes that follow from them."""
    for value in graph.input:
        for length in value.type.tensor_type.shape.dim:
            if length.dim_param in sizes:
                length.dim_value = sizes[length.dim_param]
    fixed = [value for value in graph.value_info if all(length >= 0 for length in tensor_spec(value).shape)]
    del graph.value_info[:]
    graph.value_info.extend(fixed)


def _conv_macs(_: Any, __: Shape, weight: Shape, output: Shape) -> int:
    return math.prod(output) * math.prod(weight[1:])


def _conv_transpose_macs(_: Any, data: Shape, weight: Shape, __: Shape) -> int:
    return math.prod(data) * math.prod(weight[1:])


def _matmul_macs(_: Any, left: Shape, __: Shape, output: Shape) -> int:
    return math.prod(output) * left[-1]


def _gemm_macs(node: "onnx.NodeProto", left: Shape, _: Shape, output: Shape) -> int:
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * left[0 if transposed else 1]


_MACS_OF: Final = {
    "Conv": _conv_macs,
    "ConvTranspose": _conv_transpose_macs,
    "Gemm": _gemm_macs,
    "MatMul": _matmul_macs,
}
_VIEWS: Final = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"})
