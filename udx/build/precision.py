"""What an ONNX file computes in: TensorRT's networks are strongly typed, so precision lives in the file alone."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from udx.errors import UdxError
from udx.tensors import dtype_name

if TYPE_CHECKING:
    import onnx

LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
PRECISIONS: Final = {
    "fp32": "udx export",
    "fp16": "udx export --precision fp16",
    "int8": "udx calibrate",
    "fp8": "udx calibrate --precision fp8",
}
"""Every precision, and what writes files of it."""

_QUANTISED: Final = {"int8": "int8", "uint8": "int8", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8"}
_FLOATS: Final = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


def precision_of(model: "onnx.ModelProto") -> str:
    """The narrowest type that layers of a model compute in: of its quantised tensors, or else of its weights."""
    dtypes = {tensor.name: dtype_name(tensor.data_type) for tensor in model.graph.initializer}
    quantised = _read_by(model, {"QuantizeLinear", "DequantizeLinear"})
    found = {_QUANTISED[dtypes[name]] for name in quantised if dtypes.get(name) in _QUANTISED}
    found = found or {_FLOATS[dtypes[name]] for name in _read_by(model, LAYERS) if dtypes.get(name) in _FLOATS}
    return next((name for name in ("int8", "fp8", "fp16", "bf16") if name in found), "fp32")


def require_precision(model: "onnx.ModelProto", path: Path, wanted: str | None) -> str:
    """Precision of the file, which must be the one that is wanted if one is.

    Raises:
        UdxError: it is another.
    """
    found = precision_of(model)
    if wanted is not None and wanted != found:
        raise UdxError(
            f"{path} computes in {found}, not in {wanted}: engines take their precision from the file; write one with "
            f"{PRECISIONS[wanted]}, or leave --precision out"
        )
    return found


def _read_by(model: "onnx.ModelProto", op_types: Iterable[str]) -> set[str]:
    return {name for node in model.graph.node if node.op_type in op_types for name in node.input}
