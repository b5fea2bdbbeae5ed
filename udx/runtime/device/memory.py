"""Memory of a plan: one arena and one scratch block on the GPU, and page-locked buffers that frames pass through."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udx.runtime.device.cuda import Cuda
from udx.runtime.device.errors import CallError
from udx.tensors import TensorSpec


class Memory:
    """Takes memory and frees all of it, the last first; a block that cannot be freed any more is let go."""

    def __init__(self, cuda: Cuda) -> None:
        self._driver = cuda.driver
        self._held = ExitStack()

    def on_device(self, num_bytes: int, what: str) -> int:
        """Address of so many bytes on the GPU, aligned to 256, all of them 0.

        Raises:
            CallError: there are not so many.
        """
        try:
            block = self._driver.mem_alloc(num_bytes)
        except self._driver.MemoryError as error:
            raise CallError(f"{error}: {_mib(num_bytes)} for {what}, and {self._free()} free") from error
        self.on_close(block.free)
        self._driver.memset_d8(int(block), 0, num_bytes)
        self._driver.Context.synchronize()  # it is done on the default stream, for which a plan's stream does not wait
        return int(block)

    def on_host(self, spec: TensorSpec) -> NDArray[Any]:
        """A page-locked array of zeros: the GPU copies from and to it by itself, and a CUDA graph may hold its address.

        Raises:
            CallError: there is not so much memory that can be locked.
        """
        try:
            array: NDArray[Any] = self._driver.pagelocked_empty(spec.shape, np.dtype(spec.dtype))
        except self._driver.MemoryError as error:
            raise CallError(f"{error}: {_mib(spec.num_bytes)} of page-locked memory for {spec}") from error
        allocation: Any = array.base
        self.on_close(allocation.free)
        array[...] = 0
        return array

    def on_close(self, release: Callable[[], object]) -> None:
        """Have something else released in its turn."""
        self._held.callback(_quietly, release)

    def close(self) -> None:
        """Free everything."""
        self._held.close()

    def _free(self) -> str:
        with suppress(Exception):
            return _mib(self._driver.mem_get_info()[0])
        return "an unknown amount"


def _quietly(release: Callable[[], object]) -> None:
    with suppress(Exception):  # a lost device has taken its memory along
        release()


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.0f} MiB"
