"""Record the body of an ONNX function node by node, with constants that every reader of ONNX understands.

Constants are tensors in the attribute ``value``: of the other attributes of ``Constant`` (``value_float``, …) some
programs know nothing, and some read ``value_float`` as a double.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from udx.operators import DOMAIN, OPSET

Value = str
"""The name of a tensor in the body."""

Operand = Value | int | float | Sequence[int] | NDArray[np.generic]
"""A tensor by its name, or a constant: whole numbers are INT64, others FP32, arrays keep their type."""

_TYPES: Final = {int: TensorProto.INT64, float: TensorProto.FLOAT}


class FunctionBody:
    """Nodes in the order in which they were asked for: ``body.Add(a, 1)`` adds one and names its output."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.NodeProto] = {}

    def __getattr__(self, op_type: str) -> Callable[..., Value]:
        """Return what adds a node of one output: operands are positional, attributes are keywords."""
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return lambda *operands, **attributes: self._add(op_type, operands, 1, attributes)[0]

    def split(self, value: Operand, count: int, axis: int) -> list[Value]:
        """Cut a tensor into ``count`` equal parts along ``axis``."""
        return self._add("Split", (value,), count, {"axis": axis, "num_outputs": count})

    def attribute(self, name: str, form: type) -> Value:
        """Read an attribute of the function, an ``int`` or a ``float``, as a scalar INT64 or FP32.

        The cast is for readers that take ``value_float`` for a double; others drop it.
        """
        kind = {int: "INT", float: "FLOAT"}[form]
        node = helper.make_node("Constant", [], [f"{name}_given"])
        node.attribute.add(
            name=f"value_{form.__name__}", ref_attr_name=name, type=onnx.AttributeProto.AttributeType.Value(kind)
        )
        self._nodes.append(node)
        return self.Cast(f"{name}_given", to=_TYPES[form])

    def to_function(
        self, name: str, inputs: Sequence[str], outputs: Sequence[Value], attributes: Sequence[str]
    ) -> onnx.FunctionProto:
        """Finish the body: constants first, then the nodes."""
        return helper.make_function(
            DOMAIN,
            name,
            list(inputs),
            list(outputs),
            [*self._constants.values(), *self._nodes],
            [helper.make_opsetid("", OPSET)],
            list(attributes),
        )

    def _add(self, op_type: str, operands: Sequence[Operand], outputs: int, attributes: dict[str, Any]) -> list[Value]:
        number = len(self._nodes)
        names = [f"{op_type}_{number}"] if outputs == 1 else [f"{op_type}_{number}_{at}" for at in range(outputs)]
        self._nodes.append(helper.make_node(op_type, [self._name_of(item) for item in operands], names, **attributes))
        return names

    def _name_of(self, operand: Operand) -> Value:
        if isinstance(operand, str):
            return operand
        array = np.asarray(operand)
        if not isinstance(operand, np.ndarray | np.generic):
            array = array.astype(np.float32 if isinstance(operand, float) else np.int64)
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        return str(self._constants[key].output[0])
