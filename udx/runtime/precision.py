"""Whether a graph computes in the types that its manifest says."""

from typing import TYPE_CHECKING

from udx.errors import UdxError
from udx.manifest import PrecisionPlan
from udx.runtime.cost import known_dtypes

if TYPE_CHECKING:
    import onnx


def require_precision(graph: "onnx.GraphProto", plan: PrecisionPlan, source: object) -> None:
    """Hold a graph whose types are inferred to its precision plan; ``source`` names the file in errors.

    Raises:
        UdxError: a node that should compute in FP32 reads or writes FP16 or quantized weights, or is not there; or
            the plan is FP32 and a node is not; or the quantized layers are others than the plan lists.
    """
    halves = {name for name, dtype in known_dtypes(graph).items() if dtype == "float16"}
    halved = {node.name: sorted(halves & {*node.input, *node.output}) for node in graph.node}
    for reason, names in plan.float32.items():
        for name in names:
            if name not in halved:
                raise UdxError(
                    f"{source} has no node {name}, which its manifest keeps FP32 ({reason}); export it again"
                )
            if halved[name]:
                raise UdxError(
                    f"{source} computes {name} with {halved[name][0]} in FP16, and its manifest keeps it FP32 "
                    f"({reason}); export it again"
                )
    _require_quantized(graph, plan, source)
    if plan.precision != "fp16" and halves:
        raise UdxError(
            f"{source} holds {min(halves)} in FP16, and its manifest says {plan.precision.upper()}; export it again"
        )


def _require_quantized(graph: "onnx.GraphProto", plan: PrecisionPlan, source: object) -> None:
    """Hold the layers whose weights are in 8 bits to those that the plan lists."""
    stored = {tensor.name for tensor in graph.initializer}
    dequantized = {
        node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    found = {node.name for node in graph.node if dequantized & set(node.input)}
    listed = set(plan.quantization.layers) if plan.quantization else set()
    for names, problem in (
        (found - listed, "quantized weights, which its manifest does not tell"),
        (listed - found, "full weights, and its manifest tells of quantized ones"),
    ):
        if names:
            raise UdxError(f"{source} computes {min(names)} with {problem}; calibrate it again")
