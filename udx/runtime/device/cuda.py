"""The driver through pycuda and cuda-bindings, and the GPU that plans run on."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from udx.errors import UdxError
from udx.runtime.device.errors import CallError, explained

INSTALL: Final = "pip install 'udx[gpu]', where a CUDA toolkit is: pycuda has no wheel"
NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING: work of others on the default stream does not hold up a frame, nor end its capture."""


@dataclass(frozen=True, slots=True)
class Cuda:
    """The two libraries: ``driver`` is ``pycuda.driver``, ``bindings`` is ``cuda.bindings.driver``."""

    driver: Any
    bindings: Any

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of cuda-bindings; return what it returns besides its status.

        Raises:
            CallError: the status is not success.
        """
        status, *values = getattr(self.bindings, function)(*arguments)
        if int(status):
            _, text = self.bindings.cuGetErrorString(status)
            raise CallError(f"{function} failed: {text.decode(errors='replace') if text else f'error {int(status)}'}")
        return values[0] if values else None


def load_cuda() -> Cuda:
    """Import both libraries and start the driver.

    Raises:
        UdxError: one is not installed, or the driver does not start.
    """
    try:
        import pycuda.driver as driver
        from cuda.bindings import driver as bindings
    except ImportError as error:
        raise UdxError(f"running plans on a GPU needs pycuda and cuda-bindings ({error}); {INSTALL}") from error
    with explained("the NVIDIA driver does not start"):
        driver.init()
    return Cuda(driver, bindings)


class Device:
    """The first GPU and its primary context, which all runners of a process share; released by ``close``.

    pycuda binds what it makes to the thread that made it: activate, run and deactivate in one thread.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        with explained("the GPU cannot be used"):
            self._context = cuda.driver.Device(0).retain_primary_context()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current for a block, and what was current before it again."""
        with explained("the GPU's context cannot be used"):
            self._context.push()
        try:
            yield
        finally:
            with suppress(Exception):  # of a context that is lost
                self.cuda.driver.Context.pop()

    def close(self) -> None:
        """Give the context back; it lives on while others hold it."""
        with suppress(Exception):  # of a context that is lost
            self._context.detach()
