"""The GPUs that CUDA shows to this process, asked of the driver's own library: no CUDA toolkit, no other package."""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from udx.errors import MissingHardwareError, UdxError

LIBRARY: Final = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_NO_DEVICE: Final = 100
_MULTIPROCESSORS: Final = 16
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaDevice:
    """A GPU. Engines of TensorRT are bound to all of this but the ``uuid``."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    memory_bytes: int
    uuid: str

    @property
    def capability(self) -> str:
        """Compute capability as NVIDIA writes it: ``9.0``."""
        return "{}.{}".format(*self.compute_capability)

    @property
    def arch(self) -> int:
        """Compute capability as compilers write it: 90."""
        major, minor = self.compute_capability
        return 10 * major + minor


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaDriver:
    """The driver: the newest CUDA that it runs, and the GPUs as CUDA counts them (``CUDA_VISIBLE_DEVICES`` applies)."""

    cuda_version: tuple[int, int]
    devices: tuple[CudaDevice, ...]


def cuda_driver(load: Callable[[str], Any] = ctypes.CDLL) -> CudaDriver:
    """Ask the driver; a machine with a driver and no GPU has no devices.

    Raises:
        UdxError: the driver is not installed, or fails.
    """
    try:
        library = load(LIBRARY)
    except OSError as error:
        raise MissingHardwareError(
            f"no NVIDIA driver is installed ({LIBRARY} cannot be loaded); install one, or start the container with "
            "--gpus all"
        ) from error
    version = ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.byref(version))
    cuda_version = version.value // 1000, version.value % 1000 // 10
    status = library.cuInit(0)
    if status == _NO_DEVICE:
        return CudaDriver(cuda_version=cuda_version, devices=())
    _require(library, "cuInit", status)
    count = ctypes.c_int()
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    return CudaDriver(cuda_version=cuda_version, devices=tuple(_device(library, index) for index in range(count.value)))


def first_device(driver: CudaDriver) -> CudaDevice:
    """The GPU that engines are built for and run on unless a program chooses another.

    Raises:
        UdxError: there is none.
    """
    if not driver.devices:
        raise MissingHardwareError(
            "the NVIDIA driver shows no GPU; unset CUDA_VISIBLE_DEVICES, or use a machine that has one"
        )
    return driver.devices[0]


def _device(library: Any, index: int) -> CudaDevice:
    handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    uuid = ctypes.create_string_buffer(16)
    _call(library, "cuDeviceGet", ctypes.byref(handle), index)
    _call(library, "cuDeviceGetName", name, len(name), handle)
    _call(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), handle)
    _call(library, "cuDeviceGetUuid_v2", uuid, handle)
    hexadecimal = uuid.raw.hex()
    parts = [hexadecimal[start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))]
    return CudaDevice(
        name=name.value.decode(errors="replace"),
        compute_capability=(
            _attribute(library, _CAPABILITY_MAJOR, handle),
            _attribute(library, _CAPABILITY_MINOR, handle),
        ),
        multiprocessors=_attribute(library, _MULTIPROCESSORS, handle),
        memory_bytes=memory.value,
        uuid="GPU-" + "-".join(parts),
    )


def _attribute(library: Any, attribute: int, handle: ctypes.c_int) -> int:
    value = ctypes.c_int()
    _call(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, handle)
    return value.value


def _call(library: Any, function: str, *arguments: Any) -> None:
    _require(library, function, getattr(library, function)(*arguments))


def _require(library: Any, function: str, status: int) -> None:
    if status:
        text = ctypes.c_char_p()
        library.cuGetErrorString(status, ctypes.byref(text))
        said = (text.value or b"unknown error").decode(errors="replace")
        raise UdxError(f"the NVIDIA driver fails in {function} ({status}: {said}); see to the driver, then try again")
