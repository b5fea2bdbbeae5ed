"""What every implementation of ``Driver`` does, run by ``test_driver.py`` on the fake driver, in a process for each.

``UDX_DRIVER`` names the implementation: ``bindings``, ``pycuda``, or ``pycuda-stand-in``.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests.runtime.device.fake_cuda import Fake, require_clean
from udx.errors import UdxError
from udx.runtime.device.cuda import Device
from udx.runtime.device.driver import Driver
from udx.runtime.device.errors import CallError, OutOfMemory, explained

KIND = os.environ.get("UDX_DRIVER", "bindings")
CAPTURES = KIND == "bindings"
PTX = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry fake_copy(.param .u64 source, .param .u32 bytes, .param .u64 target) .reqntid 32 { ret; }
.visible .entry other(
    .param .u64 .ptr .global .align 16 a, .param .u32 b, .param .u32 c, .param .u32 d, .param .u64 e
) { ret; }
\0"""


@pytest.fixture(scope="module")
def fake() -> Fake:
    return Fake()


@pytest.fixture(scope="module")
def driver() -> Driver:
    if KIND == "bindings":
        from udx.runtime.device.bindings_driver import BindingsDriver

        return BindingsDriver()
    if KIND == "pycuda-stand-in":
        from tests.runtime.device import pycuda_stand_in

        pycuda_stand_in.install()
    sys.setdlopenflags(os.RTLD_LAZY)  # the real one asks for functions that the fake driver has not, and calls none
    from udx.runtime.device.pycuda_driver import PycudaDriver

    return PycudaDriver()


@pytest.fixture(autouse=True)
def clean(fake) -> Iterator[None]:
    fake.report()
    yield
    fake.fail("nothing", nth=0)
    require_clean(fake.report())


@contextmanager
def on(driver: Driver) -> Iterator[int]:
    """A context that is current, and a stream."""
    context = driver.retain_context()
    driver.push_context(context)
    stream = driver.create_stream()
    try:
        yield stream
    finally:
        driver.destroy_stream(stream)
        driver.pop_context()
        driver.release_context(context)


def test_work_is_done_in_order_and_when_it_is_waited_for(driver, fake):
    with on(driver) as stream:
        source, target = driver.allocate(1000), driver.allocate(1000)
        assert source % 256 == target % 256 == 0
        driver.clear(target, 1000)
        given, taken = driver.allocate_host(1000), driver.allocate_host(1000)
        assert (given.shape, given.dtype) == ((1000,), np.uint8)
        given[...] = np.arange(1000) % 251
        taken[...] = 255
        module = driver.load_module(PTX)
        copy = driver.find_function(module, "fake_copy")
        driver.upload(source, given.view(np.float32).reshape(5, 50)[:4], stream)
        arguments = np.uint64(source), np.int32(900), np.uint64(target)
        driver.launch(copy, grid=(7, 2, 1), block=(32, 1, 1), shared_bytes=1024, stream=stream, arguments=arguments)
        driver.download(taken, target, stream)
        assert (taken == 255).all(), "nothing is done before it is waited for"
        driver.synchronize(stream)
        np.testing.assert_array_equal(taken[:800], given[:800])
        assert (taken[800:900] == 0xA5).all(), "only four rows were uploaded"
        assert not taken[900:].any()
        assert fake.report()["launches"] == [
            {
                "kernel": "fake_copy",
                "grid": [7, 2, 1],
                "block": [32, 1, 1],
                "shared": 1024,
                "arguments": [source, 900, target],
            }
        ]
        driver.unload_module(module)
        for buffer in (given, taken):
            driver.free_host(buffer)
        free = driver.free_bytes()
        driver.free(source)
        assert driver.free_bytes() == free + 1000
        driver.free(target)


def test_arguments_have_their_sizes_and_places(driver, fake):
    with on(driver) as stream:
        block = driver.allocate(256)
        module = driver.load_module(PTX)
        other = driver.find_function(module, "other")
        scalars = (-1, 2**31 - 1, -(2**31))
        arguments = np.uint64(block), *(np.int32(one) for one in scalars), np.uint64(block + 128)
        driver.launch(other, grid=(1, 1, 1), block=(64, 1, 1), shared_bytes=0, stream=stream, arguments=arguments)
        driver.synchronize(stream)
        (launch,) = fake.report()["launches"]
        assert launch["arguments"] == [block, *scalars, block + 128]
        driver.unload_module(module)
        driver.free(block)


def test_the_contexts_of_others_stay_where_they_are(driver, fake):
    theirs = driver.retain_context()
    driver.push_context(theirs)
    before = fake.current(), fake.report()["depth"]
    assert before[0] and before[1] == 1
    for _ in range(3):
        device = Device(driver)
        with device.current():
            assert fake.current()
        assert (fake.current(), fake.report()["depth"]) == before
        device.close()
        assert (fake.current(), fake.report()["depth"]) == before
    driver.pop_context()
    driver.release_context(theirs)


def test_a_context_that_nobody_else_holds_leaves_no_dead_one_behind(driver, fake):
    for _ in range(3):
        device = Device(driver)
        with device.current():
            pass
        device.close()
        assert fake.current() == 0
        report = fake.report()
        assert (report["retained"], report["depth"]) == (0, 0)


def test_a_context_is_released_from_another_thread(driver, fake):
    device = Device(driver)
    depths = []

    def close() -> None:
        device.close()
        depths.append(fake.report()["depth"])

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert depths == [0]
    assert fake.report()["retained"] == 0


def test_events_take_times(driver):
    with on(driver) as stream:
        events = [driver.create_event() for _ in range(3)]
        for event in events:
            driver.record_event(event, stream, captured=False)
        driver.synchronize(stream)
        assert driver.elapsed_ms(events[0], events[2]) == 2
        assert driver.elapsed_ms(events[1], events[2]) == 1
        for event in events:
            driver.destroy_event(event)


def test_a_graph_is_launched_as_a_whole(driver, fake):
    if not CAPTURES:
        with pytest.raises(CallError, match=r"pycuda has no calls for CUDA graphs.*pip install cuda-bindings"):
            driver.graphs()
        return
    graphs = driver.graphs()
    with on(driver) as stream:
        block, buffer, event = driver.allocate(64), driver.allocate_host(64), driver.create_event()
        buffer[...] = 7
        graphs.begin_capture(stream)
        with pytest.raises(CallError, match="cuStreamSynchronize failed: operation not permitted when stream is"):
            driver.synchronize(stream)
        driver.record_event(event, stream, captured=True)
        driver.upload(block, buffer, stream)
        driver.download(buffer[:32], block + 32, stream)
        graph = graphs.end_capture(stream)
        executable = graphs.instantiate(graph)
        graphs.destroy(graph)
        graphs.upload(executable, stream)
        driver.synchronize(stream)
        buffer[:32] = 1
        for _ in range(2):
            graphs.launch(executable, stream)
        assert buffer[0] == 1
        driver.synchronize(stream)
        assert (buffer == 7).all()
        graphs.destroy_executable(executable)
        driver.destroy_event(event)
        driver.free_host(buffer)
        driver.free(block)


def test_memory_that_is_not_there_is_an_error_of_its_own(driver):
    with on(driver):
        with pytest.raises(OutOfMemory, match=r"^cuMemAlloc failed: out of memory"):
            driver.allocate(2 << 30)
        with (
            pytest.raises(UdxError, match=r"^it: cuMemAlloc failed: out of memory.*free memory on the GPU"),
            explained("it"),
        ):
            driver.allocate(2 << 30)


def test_images_that_do_not_run_here_are_refused(driver):
    with on(driver):
        for image, said in ((b"nothing\0", "image is invalid"), (PTX.replace(b"sm_80", b"sm_90a"), "no kernel image")):
            with pytest.raises(CallError, match=said):
                driver.load_module(image)
        module = driver.load_module(PTX)
        with pytest.raises(CallError, match="not found"):
            driver.find_function(module, "absent")
        driver.unload_module(module)


def test_a_launch_that_the_kernel_does_not_bear_is_refused(driver, fake):
    with on(driver) as stream:
        module = driver.load_module(PTX)
        copy = driver.find_function(module, "fake_copy")

        def launch(block: int = 32, shared_bytes: int = 0) -> None:
            arguments = np.uint64(0), np.int32(0), np.uint64(0)
            sizes = {"grid": (1, 1, 1), "block": (block, 1, 1), "shared_bytes": shared_bytes}
            driver.launch(copy, **sizes, stream=stream, arguments=arguments)

        for sizes in ({"block": 64}, {"shared_bytes": 100_000}):
            with pytest.raises(CallError, match="cuLaunchKernel failed: invalid argument"):
                launch(**sizes)
        driver.allow_shared_bytes(copy, 100_000)
        launch(shared_bytes=100_000)
        with pytest.raises(CallError, match="illegal memory access"):
            driver.synchronize(stream)
        driver.unload_module(module)
        assert fake.report()["violations"] == ["fake_copy gets a pointer to what is no device memory"]
        fake.library.fake_forget()


FAILING = {
    "cuDevicePrimaryCtxRetain": lambda driver: driver.retain_context(),
    "cuCtxPushCurrent": None,
    "cuStreamCreate": lambda driver: driver.create_stream(),
    "cuEventCreate": lambda driver: driver.create_event(),
    "cuMemAlloc": lambda driver: driver.allocate(8),
    "cuMemHostAlloc": lambda driver: driver.allocate_host(8),
    "cuMemGetInfo": lambda driver: driver.free_bytes(),
    "cuModuleLoadData": lambda driver: driver.load_module(PTX),
}  # fmt: skip


@pytest.mark.parametrize("function", FAILING)
def test_a_call_that_fails_says_which_and_why(driver, fake, function):
    context = driver.retain_context()
    if function == "cuCtxPushCurrent":
        fake.fail(function)
        with pytest.raises(CallError, match=f"^{function} failed: unknown error"):
            driver.push_context(context)
    driver.push_context(context)
    if (call := FAILING[function]) is not None:
        fake.fail(function)
        with pytest.raises(CallError, match=rf"^{function}\w* failed: unknown error"):
            call(driver)
    driver.pop_context()
    driver.release_context(context)
