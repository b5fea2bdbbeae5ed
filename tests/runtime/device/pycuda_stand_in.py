"""``pycuda.driver`` as far as udx uses it, in ctypes on the driver that is there.

What is imitated is pycuda's own bookkeeping: its stack of contexts beside the driver's, ``detach`` that pushes and does
not pop, contexts that belong to a thread, objects that live until nothing refers to them, and its exceptions. Where the
real pycuda is installed the same contract runs with it.
"""

import ctypes
import struct
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

VERSION = (2026, 1)


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):  # pycuda's own name
    pass


def _call(function: str, *arguments: Any) -> None:
    library = ctypes.CDLL("libcuda.so.1")
    if status := getattr(library, function)(*arguments):
        text = ctypes.c_char_p()
        library.cuGetErrorString(status, ctypes.byref(text))
        said = (text.value or b"unknown").decode()
        plain = function.partition("_")[0]
        raise (MemoryError if status == 2 else LogicError)(f"{plain} failed: {said}")


def _new(function: str, *arguments: Any) -> int:
    value = ctypes.c_void_p()
    _call(function, ctypes.byref(value), *arguments)
    return value.value or 0


_local = threading.local()


def _stack() -> list["Context"]:
    if not hasattr(_local, "stack"):
        _local.stack = []
    found: list[Context] = _local.stack
    while found and not found[-1].valid:
        found.pop()
    return found


class Context:
    def __init__(self, handle: int) -> None:
        self.handle, self.valid, self.thread = handle, True, threading.get_ident()

    @staticmethod
    def _leave() -> None:
        if _stack():
            _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def push(self) -> None:
        Context._leave()
        _call("cuCtxPushCurrent_v2", ctypes.c_void_p(self.handle))
        _stack().append(self)

    @staticmethod
    def pop() -> None:
        Context._leave()
        _stack().pop()
        if _stack():
            _call("cuCtxPushCurrent_v2", ctypes.c_void_p(_stack()[-1].handle))

    @staticmethod
    def synchronize() -> None:
        _call("cuCtxSynchronize")

    def detach(self) -> None:
        assert self.valid
        active = bool(_stack()) and _stack()[-1] is self
        if active:
            _call("cuDevicePrimaryCtxRelease_v2", 0)
        elif self.thread == threading.get_ident():
            _call("cuCtxPushCurrent_v2", ctypes.c_void_p(self.handle))
            _call("cuDevicePrimaryCtxRelease_v2", 0)
        self.valid = False
        if active and _stack():
            _call("cuCtxPushCurrent_v2", ctypes.c_void_p(_stack()[-1].handle))


class Device:
    def __init__(self, index: int) -> None:
        device = ctypes.c_int()
        _call("cuDeviceGet", ctypes.byref(device), index)
        self.device = device.value

    def retain_primary_context(self) -> Context:
        return Context(_new("cuDevicePrimaryCtxRetain", self.device))


class Stream:
    def __init__(self, flags: int = 0) -> None:
        self.handle = _new("cuStreamCreate", flags)

    def synchronize(self) -> None:
        _call("cuStreamSynchronize", ctypes.c_void_p(self.handle))

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            _call("cuStreamDestroy_v2", ctypes.c_void_p(self.handle))


class Event:
    def __init__(self, flags: int = 0) -> None:
        self.handle = _new("cuEventCreate", flags)

    def record(self, stream: Stream) -> None:
        _call("cuEventRecord", ctypes.c_void_p(self.handle), ctypes.c_void_p(stream.handle))

    def time_till(self, end: "Event") -> float:
        value = ctypes.c_float()
        _call("cuEventElapsedTime", ctypes.byref(value), ctypes.c_void_p(self.handle), ctypes.c_void_p(end.handle))
        return value.value

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            _call("cuEventDestroy_v2", ctypes.c_void_p(self.handle))


class DeviceAllocation:
    def __init__(self, num_bytes: int) -> None:
        self.address = _new("cuMemAlloc_v2", ctypes.c_size_t(num_bytes))

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        _call("cuMemFree_v2", ctypes.c_uint64(self.address))


class PagelockedAllocation:
    def __init__(self, num_bytes: int) -> None:
        self.address = _new("cuMemHostAlloc", ctypes.c_size_t(num_bytes), 0)
        self.__array_interface__ = {
            "shape": (num_bytes,), "typestr": "|u1", "data": (self.address, False), "version": 3,
        }  # fmt: skip

    def free(self) -> None:
        _call("cuMemFreeHost", ctypes.c_void_p(self.address))


class Function:
    def __init__(self, module: "Module", name: str) -> None:
        self.module, self.handle = module, _new("cuModuleGetFunction", ctypes.c_void_p(module.handle), name.encode())

    def set_attribute(self, attribute: int, value: int) -> None:
        _call("cuFuncSetAttribute", ctypes.c_void_p(self.handle), attribute, value)

    def __call__(self, *arguments: Any, grid: Any, block: Any, shared: int, stream: Stream) -> None:
        packed = struct.pack("".join(argument.dtype.char for argument in arguments), *map(int, arguments))
        size = ctypes.c_size_t(len(packed))
        extra = (ctypes.c_void_p * 5)(
            1, ctypes.cast(ctypes.c_char_p(packed), ctypes.c_void_p), 2, ctypes.addressof(size), 0
        )
        handles = ctypes.c_void_p(self.handle), ctypes.c_void_p(stream.handle)
        _call("cuLaunchKernel", handles[0], *grid, *block, shared, handles[1], None, extra)


class Module:
    def __init__(self, image: bytes) -> None:
        self.handle = _new("cuModuleLoadDataEx", image, 0, None, None)

    def get_function(self, name: str) -> Function:
        return Function(self, name)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            _call("cuModuleUnload", ctypes.c_void_p(self.handle))


def _mem_get_info() -> tuple[int, int]:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    _call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value, total.value


def _memcpy_htod_async(address: int, array: np.ndarray, stream: Stream) -> None:
    to, source = ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data)
    _call("cuMemcpyHtoDAsync_v2", to, source, ctypes.c_size_t(array.nbytes), ctypes.c_void_p(stream.handle))


def _memcpy_dtoh_async(array: np.ndarray, address: int, stream: Stream) -> None:
    to, source = ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address)
    _call("cuMemcpyDtoHAsync_v2", to, source, ctypes.c_size_t(array.nbytes), ctypes.c_void_p(stream.handle))


def _memset_d8(address: int, value: int, num_bytes: int) -> None:
    _call("cuMemsetD8_v2", ctypes.c_uint64(address), ctypes.c_ubyte(value), ctypes.c_size_t(num_bytes))


def install() -> None:
    """Let this process find it as ``pycuda.driver``."""
    package, driver = ModuleType("pycuda"), ModuleType("pycuda.driver")
    for name, value in {
        "init": lambda: _call("cuInit", 0),
        "Device": Device, "Context": Context, "Stream": Stream, "Event": Event,
        "mem_alloc": DeviceAllocation, "mem_get_info": _mem_get_info, "memset_d8": _memset_d8,
        "pagelocked_empty": lambda shape, dtype: np.asarray(PagelockedAllocation(shape)),
        "memcpy_htod_async": _memcpy_htod_async, "memcpy_dtoh_async": _memcpy_dtoh_async,
        "module_from_buffer": Module,
        "function_attribute": SimpleNamespace(MAX_DYNAMIC_SHARED_SIZE_BYTES=8),
        "Error": Error, "LogicError": LogicError, "MemoryError": MemoryError,
    }.items():  # fmt: skip
        setattr(driver, name, value)
    package.driver, package.VERSION = driver, VERSION
    sys.modules |= {"pycuda": package, "pycuda.driver": driver}
