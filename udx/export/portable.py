"""Rewrite an export for programs that know nothing of functions, of domain ``udx``, or of shapes that depend on data.

Every ``udx`` node becomes the nodes of its function's body, in which every shape is fixed. What then follows from
shapes alone is computed here, once, so that Shape, Range and their like are gone.
"""

import math

import onnx
from onnx import inliner
from onnxscript import ir
from onnxscript.ir.passes.common import LiftConstantsToInitializersPass

from udx.errors import UdxError
from udx.export.simplify import simplify
from udx.operators import DOMAIN, BevPool
from udx.ops.onnx_functions import fixed_function_protos
from udx.runtime.cost import known_tensors, skeleton_of, with_shapes
from udx.tensors import tensor_spec


def to_portable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of ONNX's own operators that gives what ``model`` gives; ``model`` is left as it is.

    Raises:
        UdxError: a tensor of the result has no fixed shape.
    """
    flat = onnx.ModelProto()
    flat.CopyFrom(model)
    del flat.functions[:]
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    flat.functions.extend(body for body in fixed_function_protos(*_pooled(model)) if body.name in used)
    flat = inliner.inline_local_functions(flat)
    _write_constants_as_tensors(flat.graph)
    program = ir.from_proto(flat)
    simplify(program)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(program)
    program.opset_imports.pop(DOMAIN, None)
    for number, node in enumerate(program.graph):
        node.metadata_props.clear()
        node.name = node.name or f"{node.op_type}_{number}"
    portable = ir.to_proto(program)
    del portable.graph.value_info[:]
    portable = onnx.shape_inference.infer_shapes(portable, check_type=True, strict_mode=True)
    require_portable(portable)
    return portable


def require_portable(model: onnx.ModelProto) -> None:
    """Hold a model to what it is named for.

    Raises:
        UdxError: it has functions, operators of another domain, or a tensor of unknown shape.
    """
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain})
    if model.functions or foreign:
        raise UdxError(f"the export still holds {', '.join(foreign) or 'functions'}; leave --portable out")
    known = {value.name for value in model.graph.value_info} | {value.name for value in model.graph.output}
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    unfixed = [spec.name for spec in map(tensor_spec, values) if any(length < 0 for length in spec.shape)]
    unfixed += [name for node in model.graph.node for name in node.output if name and name not in known]
    if unfixed:
        raise UdxError(f"tensor {unfixed[0]} of the export has no fixed shape; leave --portable out")


def _pooled(model: onnx.ModelProto) -> tuple[int, int]:
    """Slots and cells of the model's UdxBevPool nodes, of all samples together; (0, 0) if it has none."""
    nodes = [node for node in model.graph.node if (node.domain, node.op_type) == (DOMAIN, BevPool.name)]
    known = known_tensors(with_shapes(skeleton_of(model)).graph)
    sizes = set()
    for node in nodes:
        index, offsets = (known[node.input[BevPool.inputs.index(name)]] for name in ("point_index", "cell_offsets"))
        sizes.add((math.prod(index.shape), offsets.shape[0] * (offsets.shape[1] - 1)))
    assert len(sizes) <= 1, "a detector has one frustum and one grid"
    return sizes.pop() if sizes else (0, 0)


def _write_constants_as_tensors(graph: onnx.GraphProto) -> None:
    """Give Constant nodes a tensor where they have a number: attributes of the functions became such."""
    types = {"value_float": onnx.TensorProto.FLOAT, "value_int": onnx.TensorProto.INT64}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name in types:
            (attribute,) = node.attribute
            number = onnx.helper.get_attribute_value(attribute)
            tensor = onnx.helper.make_tensor("", types[attribute.name], [], [number])
            attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
