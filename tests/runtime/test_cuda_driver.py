"""What the driver is asked, with a stand-in for its library; and what is said where it is missing or fails."""

import ctypes

import pytest

from udx.errors import UdxError
from udx.runtime.cuda_driver import CudaDevice, CudaDriver, cuda_driver, first_device

ATTRIBUTES = {16: 132, 75: 9, 76: 0}


class Library:
    """The functions of the driver's library, which write through the pointers that they are given."""

    def __init__(self, init: int = 0, devices: int = 1) -> None:
        self.init, self.devices = init, devices

    def cuDriverGetVersion(self, version) -> int:
        version._obj.value = 13020
        return 0

    def cuInit(self, flags) -> int:
        assert flags == 0
        return self.init

    def cuGetErrorString(self, status, text) -> int:
        text._obj.value = b"system not yet initialized"
        return 0

    def cuDeviceGetCount(self, count) -> int:
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, handle, index) -> int:
        handle._obj.value = index
        return 0

    def cuDeviceGetName(self, name, size, handle) -> int:
        assert size == 256
        name.value = f"GPU number {handle.value}".encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory, handle) -> int:
        memory._obj.value = 150_000_000_000
        return 0

    def cuDeviceGetUuid_v2(self, uuid, handle) -> int:
        ctypes.memmove(uuid, bytes(range(16)), 16)
        return 0

    def cuDeviceGetAttribute(self, value, attribute, handle) -> int:
        value._obj.value = ATTRIBUTES[attribute]
        return 0


def test_gpus_are_described():
    driver = cuda_driver(lambda _: Library(devices=2))
    assert driver.cuda_version == (13, 2)
    assert driver.devices[1] == CudaDevice(
        name="GPU number 1",
        compute_capability=(9, 0),
        multiprocessors=132,
        memory_bytes=150_000_000_000,
        uuid="GPU-00010203-0405-0607-0809-0a0b0c0d0e0f",
    )
    assert (first_device(driver).name, first_device(driver).capability, first_device(driver).arch) == (
        "GPU number 0",
        "9.0",
        90,
    )


def test_a_driver_without_a_gpu_has_no_devices():
    driver = cuda_driver(lambda _: Library(init=100))
    assert driver == CudaDriver(cuda_version=(13, 2), devices=())
    with pytest.raises(UdxError, match="shows no GPU; unset CUDA_VISIBLE_DEVICES"):
        first_device(driver)


def test_a_failing_driver_says_what_failed():
    with pytest.raises(UdxError, match=r"fails in cuInit \(3: system not yet initialized\)"):
        cuda_driver(lambda _: Library(init=3))


def test_without_a_driver_there_is_one_sentence():
    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(UdxError, match=r"no NVIDIA driver is installed .* --gpus all"):
        cuda_driver(absent)


@pytest.mark.gpu
def test_the_driver_and_torch_see_the_same_gpu():
    import torch

    device = first_device(cuda_driver())
    properties = torch.cuda.get_device_properties(0)
    assert device.name == properties.name
    assert device.compute_capability == (properties.major, properties.minor)
    assert device.multiprocessors == properties.multi_processor_count
    assert device.memory_bytes == pytest.approx(properties.total_memory, rel=0.05)
