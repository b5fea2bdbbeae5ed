"""Simplify an exported graph without a look at its weights, and fold its batch norms.

An optimiser that sees weights drops a bias that happens to be zero, merges two tensors that happen to be equal, and so
gives two detectors of one architecture different graphs. Here it sees them as inputs, of which it knows type and shape
alone. Folding looks at values too, but not at what they are: it multiplies and adds.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from onnxscript import ir, optimizer, rewriter
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

FOLDING = (fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule, fuse_batchnorm_into_gemm_rule)


def simplify(model: ir.Model) -> None:
    """Optimise the model in place; what weights it has left are its module's own, by name, but for folded norms."""
    with _hidden_weights(model.graph):
        optimizer.optimize(model)
    rewriter.RewritePass(FOLDING)(model)
    optimizer.remove_unused_nodes(model)


@contextmanager
def _hidden_weights(graph: ir.Graph) -> Iterator[None]:
    """Make every floating-point initializer an input for a while; those that nothing reads any more are dropped."""
    weights = [
        value for value in graph.initializers.values() if value.dtype is not None and value.dtype.is_floating_point()
    ]
    tensors = [value.const_value for value in weights]
    for value in weights:
        del graph.initializers[value.name]
        value.const_value = None
        graph.inputs.append(value)
    yield
    for value, tensor in zip(weights, tensors, strict=True):
        graph.inputs.remove(value)
        value.const_value = tensor
        if value.uses() or value.is_graph_output():
            graph.initializers.add(value)
