"""What goes wrong on a GPU, told with the call that failed and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from udx.errors import UdxError

_DOCTOR: Final = "see udx doctor"
_REMEDIES: Final = (
    (("page-locked",), "free memory of the host, or raise the limit of locked memory (ulimit -l)"),
    (("out of memory",), "free memory on the GPU (nvidia-smi lists who holds it), or use a smaller detector"),
    (("busy or unavailable",), "another process holds the GPU for itself: end it, or sudo nvidia-smi -c DEFAULT"),
    (("no cuda-capable device", "invalid device"), "unset CUDA_VISIBLE_DEVICES, or use a machine with an NVIDIA GPU"),
    (("driver version is insufficient", "unsupported toolchain", "mismatch"), "update the NVIDIA driver"),
    (("no kernel image", "kernel image is invalid", "ptx"), "it was built for other GPUs: build the plan again here"),
    (
        ("illegal memory access", "illegal instruction", "misaligned", "unspecified launch failure", "assert"),
        "nothing runs on the GPU in this process any more: start again, and build the plan again if it comes back",
    ),
    (
        ("ecc", "hardware", "lost", "context is destroyed", "invalid context", "timed out", "unknown error"),
        "the GPU is lost: look for Xid in the kernel's log (sudo dmesg), reset the GPU or restart the machine",
    ),
)


class CallError(Exception):
    """A call of the driver failed: ``cuMemAlloc failed: out of memory``."""


class OutOfMemory(CallError):
    """There is not so much memory on the GPU, or not so much on the host that can be page-locked."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Let a block call the driver; a call that fails is told as one sentence.

    Raises:
        UdxError: a call failed.
    """
    try:
        yield
    except CallError as error:
        raise UdxError(f"{what}: {one_line(error)}; {remedy(str(error))}") from error


def remedy(said: str) -> str:
    """What to do about an error of the driver, by what it says."""
    words = said.lower()
    return next((advice for needles, advice in _REMEDIES if any(needle in words for needle in needles)), _DOCTOR)


def one_line(error: Exception) -> str:
    """What an exception says, in one line and not endless."""
    return " ".join(str(error).split())[:300] or type(error).__name__
