"""The driver through cuda-bindings: wheels without a compiler, and CUDA graphs."""
# ruff: noqa: D102 — ``Driver`` documents the methods

import ctypes
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udx.runtime.device.driver import Argument, Graphs, Handle, Size3
from udx.runtime.device.errors import CallError, OutOfMemory, one_line

_NON_BLOCKING: Final = 1
"""CU_STREAM_NON_BLOCKING: work of others on the default stream does not hold up a frame, nor end its capture."""
_OUT_OF_MEMORY: Final = 2
_CTYPES: Final[dict[type, Any]] = {np.uint64: ctypes.c_void_p, np.int32: ctypes.c_int32}


class BindingsDriver:
    """Calls of ``cuda.bindings.driver``; ``Driver`` says what they do.

    Raises:
        ImportError: cuda-bindings is not installed.
        CallError: the driver does not start.
    """

    name = "cuda-bindings"

    def __init__(self) -> None:
        from cuda.bindings import driver

        self._bindings = driver
        try:
            self._call("cuInit", 0)
        except CallError:
            raise
        except Exception as error:  # what cuda-bindings raises if libcuda cannot be loaded has changed its name
            raise CallError(one_line(error)) from error

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call a function; return what it returns besides its status."""
        status, *values = getattr(self._bindings, function)(*arguments)
        if int(status):
            _, text = self._bindings.cuGetErrorString(status)
            said = text.decode(errors="replace") if text else f"error {int(status)}"
            raise (OutOfMemory if int(status) == _OUT_OF_MEMORY else CallError)(f"{function} failed: {said}")
        return values[0] if values else None

    def retain_context(self) -> Handle:
        return int(self._call("cuDevicePrimaryCtxRetain", self._call("cuDeviceGet", 0)))

    def release_context(self, context: Handle) -> None:
        self._call("cuDevicePrimaryCtxRelease", self._call("cuDeviceGet", 0))

    def push_context(self, context: Handle) -> None:
        self._call("cuCtxPushCurrent", self._bindings.CUcontext(context))

    def pop_context(self) -> None:
        self._call("cuCtxPopCurrent")

    def create_stream(self) -> Handle:
        return int(self._call("cuStreamCreate", _NON_BLOCKING))

    def synchronize(self, stream: Handle) -> None:
        self._call("cuStreamSynchronize", self._bindings.CUstream(stream))

    def destroy_stream(self, stream: Handle) -> None:
        self._call("cuStreamDestroy", self._bindings.CUstream(stream))

    def create_event(self) -> Handle:
        return int(self._call("cuEventCreate", int(self._bindings.CUevent_flags.CU_EVENT_DEFAULT)))

    def record_event(self, event: Handle, stream: Handle, *, captured: bool) -> None:
        flags = self._bindings.CUevent_record_flags
        # Without EXTERNAL a captured event only orders what is captured, and no time can be read from it.
        flag = flags.CU_EVENT_RECORD_EXTERNAL if captured else flags.CU_EVENT_RECORD_DEFAULT
        handles = self._bindings.CUevent(event), self._bindings.CUstream(stream)
        self._call("cuEventRecordWithFlags", *handles, int(flag))

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        event = self._bindings.CUevent
        return float(self._call("cuEventElapsedTime", event(start), event(end)))

    def destroy_event(self, event: Handle) -> None:
        self._call("cuEventDestroy", self._bindings.CUevent(event))

    def allocate(self, num_bytes: int) -> int:
        return int(self._call("cuMemAlloc", num_bytes))

    def clear(self, address: int, num_bytes: int) -> None:
        self._call("cuMemsetD8", self._bindings.CUdeviceptr(address), 0, num_bytes)
        self._call("cuCtxSynchronize")  # it is done on the default stream, for which a plan's stream does not wait

    def free(self, address: int) -> None:
        self._call("cuMemFree", self._bindings.CUdeviceptr(address))

    def free_bytes(self) -> int:
        # The only call that gives two values; ``_call`` returns the first.
        return int(self._call("cuMemGetInfo"))

    def allocate_host(self, num_bytes: int) -> NDArray[np.uint8]:
        address = int(self._call("cuMemHostAlloc", num_bytes, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(address))

    def free_host(self, buffer: NDArray[np.uint8]) -> None:
        self._call("cuMemFreeHost", buffer.ctypes.data)

    def upload(self, address: int, array: NDArray[Any], stream: Handle) -> None:
        to, on = self._bindings.CUdeviceptr(address), self._bindings.CUstream(stream)
        self._call("cuMemcpyHtoDAsync", to, array.ctypes.data, array.nbytes, on)

    def download(self, array: NDArray[Any], address: int, stream: Handle) -> None:
        source, on = self._bindings.CUdeviceptr(address), self._bindings.CUstream(stream)
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, source, array.nbytes, on)

    def load_module(self, image: bytes) -> Handle:
        return int(self._call("cuModuleLoadData", image))

    def unload_module(self, module: Handle) -> None:
        self._call("cuModuleUnload", self._bindings.CUmodule(module))

    def find_function(self, module: Handle, name: str) -> Handle:
        return int(self._call("cuModuleGetFunction", self._bindings.CUmodule(module), name.encode()))

    def allow_shared_bytes(self, function: Handle, num_bytes: int) -> None:
        attribute = self._bindings.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._call("cuFuncSetAttribute", self._bindings.CUfunction(function), attribute, num_bytes)

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
        values = tuple(int(argument) for argument in arguments)
        types = tuple(_CTYPES[type(argument)] for argument in arguments)
        handles = self._bindings.CUfunction(function), self._bindings.CUstream(stream)
        self._call("cuLaunchKernel", handles[0], *grid, *block, shared_bytes, handles[1], (values, types), 0)

    def graphs(self) -> Graphs:
        return _BindingsGraphs(self._bindings, self._call)


class _BindingsGraphs:
    """Calls of ``cuda.bindings.driver`` for graphs; ``Graphs`` says what they do."""

    def __init__(self, bindings: Any, call: Any) -> None:
        self._bindings, self._call = bindings, call

    def begin_capture(self, stream: Handle) -> None:
        # What other threads allocate meanwhile is no part of this stream, and no reason to end its capture.
        mode = self._bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._bindings.CUstream(stream), mode)

    def end_capture(self, stream: Handle) -> Handle:
        return int(self._call("cuStreamEndCapture", self._bindings.CUstream(stream)))

    def instantiate(self, graph: Handle) -> Handle:
        return int(self._call("cuGraphInstantiate", self._bindings.CUgraph(graph), 0))

    def upload(self, executable: Handle, stream: Handle) -> None:
        self._call("cuGraphUpload", self._bindings.CUgraphExec(executable), self._bindings.CUstream(stream))

    def launch(self, executable: Handle, stream: Handle) -> None:
        self._call("cuGraphLaunch", self._bindings.CUgraphExec(executable), self._bindings.CUstream(stream))

    def destroy(self, graph: Handle) -> None:
        self._call("cuGraphDestroy", self._bindings.CUgraph(graph))

    def destroy_executable(self, executable: Handle) -> None:
        self._call("cuGraphExecDestroy", self._bindings.CUgraphExec(executable))
