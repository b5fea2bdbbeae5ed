"""How hard each loss term pulls."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


def gradient_norms(
    terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter], scale: float = 1.0
) -> dict[str, float]:
    """L2 norm of each term's own gradient over all parameters, before clipping; the graph is kept.

    The terms' gradients are taken one by one, which costs a backward pass each: for now and then. ``scale`` is what
    a loss is multiplied by lest its gradients vanish in FP16. In a distributed run they are this process's own.
    """
    norms = {}
    for name, term in terms.items():
        if not term.requires_grad:
            norms[name] = 0.0
            continue
        gradients = torch.autograd.grad(term * scale, parameters, retain_graph=True, allow_unused=True)
        present = [gradient.float().norm() for gradient in gradients if gradient is not None]
        norms[name] = float(torch.stack(present).norm() / scale) if present else 0.0
    return norms
