"""The calls of the CUDA driver that plans need, and the library that makes them: cuda-bindings, or else pycuda.

Handles are integers: addresses of the driver's own objects, or numbers that an implementation gives to its objects.
Whatever is created must be destroyed with the call that is named for it, while its context is current.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from udx.errors import UdxError
from udx.runtime.device.errors import explained

INSTALL: Final = "pip install 'udx[gpu]'"

Handle = int
Size3 = tuple[int, int, int]
Argument = np.uint64 | np.int32
"""An argument of a kernel: the address of a tensor, or a size."""


@runtime_checkable
class Graphs(Protocol):
    """CUDA graphs: the work on a stream, recorded once and launched as a whole.

    All calls raise ``CallError`` if the driver refuses.
    """

    def begin_capture(self, stream: Handle) -> None:
        """Record what is enqueued on a stream from now on; what other threads do does not end the capture."""
        ...

    def end_capture(self, stream: Handle) -> Handle:
        """End the recording; return the graph."""
        ...

    def instantiate(self, graph: Handle) -> Handle:
        """Make a graph executable; return the executable."""
        ...

    def upload(self, executable: Handle, stream: Handle) -> None:
        """Bring an executable to the GPU before its first launch."""
        ...

    def launch(self, executable: Handle, stream: Handle) -> None:
        """Enqueue a whole graph."""
        ...

    def destroy(self, graph: Handle) -> None:
        """Destroy a graph; its executables stay."""
        ...

    def destroy_executable(self, executable: Handle) -> None:
        """Destroy an executable."""
        ...


@runtime_checkable
class Driver(Protocol):
    """The driver of the first GPU. All calls raise ``CallError`` if the driver refuses."""

    @property
    def name(self) -> str:
        """The library that makes the calls."""
        ...

    def retain_context(self) -> Handle:
        """Take a reference to the primary context, which torch and ONNX Runtime use, too."""
        ...

    def release_context(self, context: Handle) -> None:
        """Give the reference back; the stack of contexts is left as it was."""
        ...

    def push_context(self, context: Handle) -> None:
        """Make a context current in this thread."""
        ...

    def pop_context(self) -> None:
        """Make current what was current before the last push."""
        ...

    def create_stream(self) -> Handle:
        """Create a stream, which does not wait for the default stream; the handle is the driver's ``CUstream``."""
        ...

    def synchronize(self, stream: Handle) -> None:
        """Wait until everything on a stream is done."""
        ...

    def destroy_stream(self, stream: Handle) -> None:
        """Destroy a stream."""
        ...

    def create_event(self) -> Handle:
        """Create an event that takes times."""
        ...

    def record_event(self, event: Handle, stream: Handle, *, captured: bool) -> None:
        """Record an event on a stream; ``captured`` is for a stream that is being captured."""
        ...

    def elapsed_ms(self, start: Handle, end: Handle) -> float:
        """Milliseconds between two events that were reached."""
        ...

    def destroy_event(self, event: Handle) -> None:
        """Destroy an event."""
        ...

    def allocate(self, num_bytes: int) -> int:
        """Allocate memory on the GPU; return its address, aligned to 256.

        Raises:
            OutOfMemory: there are not so many bytes.
        """
        ...

    def clear(self, address: int, num_bytes: int) -> None:
        """Set memory on the GPU to zero, and wait until that is done."""
        ...

    def free(self, address: int) -> None:
        """Free memory on the GPU."""
        ...

    def free_bytes(self) -> int:
        """Bytes of the GPU's memory that are not in use."""
        ...

    def allocate_host(self, num_bytes: int) -> NDArray[np.uint8]:
        """Allocate page-locked memory on the host, as an array (num_bytes,).

        Raises:
            OutOfMemory: there are not so many bytes that can be locked.
        """
        ...

    def free_host(self, buffer: NDArray[np.uint8]) -> None:
        """Free what ``allocate_host`` returned."""
        ...

    def upload(self, address: int, array: NDArray[Any], stream: Handle) -> None:
        """Enqueue a copy of a contiguous page-locked array to the GPU."""
        ...

    def download(self, array: NDArray[Any], address: int, stream: Handle) -> None:
        """Enqueue a copy from the GPU to a contiguous page-locked array."""
        ...

    def load_module(self, image: bytes) -> Handle:
        """Load a cubin, or PTX that ends with a zero byte."""
        ...

    def unload_module(self, module: Handle) -> None:
        """Unload a module with its functions."""
        ...

    def find_function(self, module: Handle, name: str) -> Handle:
        """Find a kernel of a module; it lives as long as the module."""
        ...

    def allow_shared_bytes(self, function: Handle, num_bytes: int) -> None:
        """Let a kernel have more dynamic shared memory than 48 KiB."""
        ...

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
        """Enqueue a kernel."""
        ...

    def graphs(self) -> Graphs:
        """CUDA graphs.

        Raises:
            CallError: the library has no calls for them.
        """
        ...


def open_driver() -> Driver:
    """Start the driver through cuda-bindings, or through pycuda where only that is installed.

    Raises:
        UdxError: neither is installed, or the driver does not start.
    """
    missing = []
    for opener in (_open_bindings, _open_pycuda):
        try:
            with explained("the NVIDIA driver does not start"):
                return opener()
        except ImportError as error:
            missing.append(str(error))
    raise UdxError(f"running plans on a GPU needs cuda-bindings or pycuda ({'; '.join(missing)}); {INSTALL}")


def _open_bindings() -> Driver:
    from udx.runtime.device.bindings_driver import BindingsDriver

    return BindingsDriver()


def _open_pycuda() -> Driver:
    from udx.runtime.device.pycuda_driver import PycudaDriver

    return PycudaDriver()
