"""The driver through pycuda, where cuda-bindings is not installed: no CUDA graphs.

pycuda binds its objects to the thread that makes them: activate, run and deactivate in one thread.
"""
# ruff: noqa: D102 — ``Driver`` documents the methods

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udx.runtime.cuda_driver import LIBRARY
from udx.runtime.device.driver import Argument, Graphs, Handle, Size3
from udx.runtime.device.errors import CallError, OutOfMemory

_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING: work of others on the default stream does not hold up a frame."""


class PycudaDriver:
    """Calls of ``pycuda.driver``; ``Driver`` says what they do.

    pycuda destroys an object when nothing refers to it: ``_objects`` holds each until its handle is destroyed.

    Raises:
        ImportError: pycuda is not installed.
        CallError: the driver does not start.
    """

    name = "pycuda"

    def __init__(self) -> None:
        import pycuda.driver

        self._pycuda = pycuda.driver
        self._objects: dict[Handle, Any] = {}
        self._functions: dict[Handle, list[Handle]] = {}
        self._numbers = count(1)
        with self._translated():
            self._pycuda.init()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._pycuda.MemoryError as error:
            raise OutOfMemory(str(error)) from error
        except self._pycuda.Error as error:
            raise CallError(str(error)) from error

    def _held(self, found: Any) -> Handle:
        number = next(self._numbers)
        self._objects[number] = found
        return number

    def retain_context(self) -> Handle:
        with self._translated():
            context = self._pycuda.Device(0).retain_primary_context()
        return self._held((context, threading.get_ident()))

    def release_context(self, context: Handle) -> None:
        retained, thread = self._objects.pop(context)
        with self._translated():
            retained.detach()
        if thread == threading.get_ident():
            # detach() pushes the context before it releases it, and leaves it on the stack.
            _call_library("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        else:  # in another thread than the context's, detach() forgets the context without releasing it
            _call_library("cuDevicePrimaryCtxRelease_v2", 0)

    def push_context(self, context: Handle) -> None:
        with self._translated():
            self._objects[context][0].push()

    def pop_context(self) -> None:
        with self._translated():
            self._pycuda.Context.pop()

    def create_stream(self) -> Handle:
        with self._translated():
            stream = self._pycuda.Stream(_NON_BLOCKING)
        handle = int(stream.handle)
        self._objects[handle] = stream
        return handle

    def synchronize(self, stream: Handle) -> None:
        with self._translated():
            self._objects[stream].synchronize()

    def destroy_stream(self, stream: Handle) -> None:
        del self._objects[stream]

    def create_event(self) -> Handle:
        with self._translated():
            return self._held(self._pycuda.Event())

    def record_event(self, event: Handle, stream: Handle, *, captured: bool) -> None:
        assert not captured, "pycuda captures no streams"
        with self._translated():
            self._objects[event].record(self._objects[stream])

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        with self._translated():
            return float(self._objects[start].time_till(self._objects[end]))

    def destroy_event(self, event: Handle) -> None:
        del self._objects[event]

    def allocate(self, num_bytes: int) -> int:
        with self._translated():
            block = self._pycuda.mem_alloc(num_bytes)
        self._objects[int(block)] = block
        return int(block)

    def clear(self, address: int, num_bytes: int) -> None:
        with self._translated():
            self._pycuda.memset_d8(address, 0, num_bytes)
            self._pycuda.Context.synchronize()  # done on the default stream, for which a plan's stream does not wait

    def free(self, address: int) -> None:
        with self._translated():
            self._objects.pop(address).free()

    def free_bytes(self) -> int:
        with self._translated():
            return int(self._pycuda.mem_get_info()[0])

    def allocate_host(self, num_bytes: int) -> NDArray[np.uint8]:
        with self._translated():
            buffer: NDArray[np.uint8] = self._pycuda.pagelocked_empty(num_bytes, np.uint8)
        return buffer

    def free_host(self, buffer: NDArray[np.uint8]) -> None:
        allocation: Any = buffer.base
        with self._translated():
            allocation.free()

    def upload(self, address: int, array: NDArray[Any], stream: Handle) -> None:
        with self._translated():
            self._pycuda.memcpy_htod_async(address, array, self._objects[stream])

    def download(self, array: NDArray[Any], address: int, stream: Handle) -> None:
        with self._translated():
            self._pycuda.memcpy_dtoh_async(array, address, self._objects[stream])

    def load_module(self, image: bytes) -> Handle:
        with self._translated():
            module = self._held(self._pycuda.module_from_buffer(image))
        self._functions[module] = []
        return module

    def unload_module(self, module: Handle) -> None:
        for function in self._functions.pop(module):  # each keeps the module loaded
            del self._objects[function]
        del self._objects[module]

    def find_function(self, module: Handle, name: str) -> Handle:
        with self._translated():
            function = self._held(self._objects[module].get_function(name))
        self._functions[module].append(function)
        return function

    def allow_shared_bytes(self, function: Handle, num_bytes: int) -> None:
        attribute = self._pycuda.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
        with self._translated():
            self._objects[function].set_attribute(attribute, num_bytes)

    def launch(
        self,
        function: Handle,
        *,
        grid: Size3,
        block: Size3,
        shared_bytes: int,
        stream: Handle,
        arguments: Sequence[Argument],
    ) -> None:
        kernel = self._objects[function]
        with self._translated():
            kernel(*arguments, grid=grid, block=block, shared=shared_bytes, stream=self._objects[stream])

    def graphs(self) -> Graphs:
        raise CallError("pycuda has no calls for CUDA graphs, cuda-bindings has: pip install cuda-bindings")


def _call_library(function: str, *arguments: Any) -> None:
    """Call what pycuda does not offer.

    Raises:
        CallError: the driver refuses.
    """
    status = getattr(ctypes.CDLL(LIBRARY), function)(*arguments)
    if status:
        raise CallError(f"{function} failed: error {status}")
