"""Which of an operator's two implementations runs, and what every operator demands of its tensors."""

import importlib.util
import os
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from udx.errors import UdxError

FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What features may be. FP64 is for checking gradients; no engine takes it."""


def runs_kernels(tensor: Tensor) -> bool:
    """Whether the Triton kernels take operators on this tensor's device; on the CPU only Triton's interpreter does.

    Raises:
        ValueError: the device is neither a CPU nor a CUDA device.
        UdxError: triton is needed and not installed.
    """
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"the BEV operators run on cpu and cuda, not on {tensor.device}")
    if tensor.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return False
    if importlib.util.find_spec("triton") is None:
        raise UdxError(f"BEV operators on {tensor.device} need Triton, which is not installed: pip install triton")
    return True


def require(
    name: str,
    tensor: Tensor,
    dtypes: Sequence[torch.dtype],
    shape: tuple[int | None, ...],
    device: torch.device,
) -> None:
    """Raise ``ValueError``, with what was expected and what came, unless a contiguous tensor fits.

    ``None`` in ``shape`` stands for any length.
    """
    if tensor.dtype not in dtypes:
        expected = " or ".join(_short(dtype) for dtype in dtypes)
        raise ValueError(f"{name} must be {expected}, not {_short(tensor.dtype)}")
    fits = tensor.ndim == len(shape) and all(
        want is None or want == got for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{name} must have shape ({wanted}), not {tuple(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {device} like the other inputs, not on {tensor.device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, not strided {tensor.stride()} at shape {tuple(tensor.shape)}")


def require_countable(what: str, count: int) -> None:
    """Raise ``ValueError`` if ``count`` entries could not be numbered with 32 bits."""
    if count >= 2**31:
        raise ValueError(f"{what}: {count} entries are more than the operators can number (2³¹ − 1)")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
