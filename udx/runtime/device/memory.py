"""Memory of a plan: one arena and one scratch block on the GPU, and page-locked buffers that frames pass through."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udx.runtime.device.driver import Driver
from udx.runtime.device.errors import OutOfMemory
from udx.tensors import TensorSpec


class Memory:
    """Takes memory and frees all of it, the last first; a block that cannot be freed any more is let go."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._held = ExitStack()

    def on_device(self, num_bytes: int, what: str) -> int:
        """Address of so many bytes on the GPU, aligned to 256, all of them 0.

        Raises:
            CallError: there are not so many.
        """
        try:
            address = self._driver.allocate(num_bytes)
        except OutOfMemory as error:
            raise OutOfMemory(f"{error}: {_mib(num_bytes)} for {what}, and {self._free()} free") from error
        self.on_close(lambda: self._driver.free(address))
        self._driver.clear(address, num_bytes)
        return address

    def on_host(self, spec: TensorSpec) -> NDArray[Any]:
        """A page-locked array of zeros: the GPU copies from and to it by itself, and a CUDA graph may hold its address.

        Raises:
            CallError: there is not so much memory that can be locked.
        """
        try:
            buffer = self._driver.allocate_host(spec.num_bytes)
        except OutOfMemory as error:
            raise OutOfMemory(f"{error}: {_mib(spec.num_bytes)} of page-locked memory for {spec}") from error
        self.on_close(lambda: self._driver.free_host(buffer))
        buffer[...] = 0
        return buffer.view(np.dtype(spec.dtype)).reshape(spec.shape)

    def on_close(self, release: Callable[[], object]) -> None:
        """Have something else released in its turn."""
        self._held.callback(_quietly, release)

    def close(self) -> None:
        """Free everything."""
        self._held.close()

    def _free(self) -> str:
        with suppress(Exception):
            return _mib(self._driver.free_bytes())
        return "an unknown amount"


def _quietly(release: Callable[[], object]) -> None:
    with suppress(Exception):  # a lost device has taken its memory along
        release()


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.0f} MiB"
