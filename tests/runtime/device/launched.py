"""A kernel of a plan on a GPU or on the fake driver: loaded and launched as plans do, alone or in a captured graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from tests.ptx.cases import Case
from tests.ptx.formats import Array
from tests.ptx.plan import numpy_type
from udx.launch import CompiledKernel, KernelFile
from udx.runtime.device.cuda import Device
from udx.runtime.device.driver import Driver, Handle
from udx.runtime.device.graph import FrameGraph
from udx.runtime.device.kernels import launchable, load_image
from udx.runtime.device.memory import Memory
from udx.tensors import TensorSpec

GARBAGE = 0xA5


@dataclass(frozen=True)
class Launched:
    """Outputs of every launch by name, and the addresses that the kernel was given, in the order of its arguments."""

    outputs: list[dict[str, Array]]
    addresses: dict[str, int] = field(default_factory=dict)


@contextmanager
def context_of(driver: Driver) -> Iterator[None]:
    """The GPU's context, current."""
    device = Device(driver)
    try:
        with device.current():
            yield
    finally:
        device.close()


@contextmanager
def taken(driver: Driver) -> Iterator[tuple[Memory, Handle]]:
    """Memory and a stream."""
    memory, stream = Memory(driver), driver.create_stream()
    memory.on_close(lambda: driver.destroy_stream(stream))
    try:
        yield memory, stream
    finally:
        memory.close()


def launch_case(
    driver: Driver, kernel: CompiledKernel, file: KernelFile, image: bytes, case: Case, *, captured: bool
) -> Launched:
    """Run a kernel on a case; in a graph twice, which brings its inputs anew each time.

    Every tensor has an allocation of its own, of exactly its size, so that compute-sanitizer sees what lies beyond it.
    Outputs begin with garbage.
    """
    launch = kernel.launch
    shapes = {name: array.shape for name, array in case.inputs.items()}
    out_shapes = dict(zip((output.name for output in launch.outputs), launch.outputs_for(shapes), strict=True))
    own = {output.name: output for output in launch.outputs if output.aliases is None}
    with taken(driver) as (memory, stream):
        given = {name: np.ascontiguousarray(array) for name, array in case.inputs.items()}
        given |= {
            name: np.full(out_shapes[name], 0, numpy_type(output.dtype)).view(np.uint8) | np.uint8(GARBAGE)
            for name, output in own.items()
        }
        hosts = {name: _locked(memory, array) for name, array in given.items()}
        addresses = {name: memory.on_device(array.nbytes, name) for name, array in given.items()}
        module = load_image(driver, kernel, file, image, memory)
        inputs = [addresses[tensor.name] for tensor in launch.inputs]
        outputs = [addresses[output.aliases or output.name] for output in launch.outputs]
        ready = launchable(driver, module, kernel, shapes, inputs, outputs)
        backs = {name: _locked(memory, hosts[output.aliases or name]) for name, output in _by_name(launch.outputs)}

        def enqueue() -> None:
            for name, host in hosts.items():
                driver.upload(addresses[name], host, stream)
            ready.enqueue(stream)
            for name, output in _by_name(launch.outputs):
                driver.download(backs[name], addresses[output.aliases or name], stream)

        run = FrameGraph(driver, stream, enqueue, memory).launch if captured else enqueue
        done = []
        for _ in range(2 if captured else 1):
            for back in backs.values():
                back[...] = 0x5A
            run()
            driver.synchronize(stream)
            done.append(
                {
                    name: backs[name].copy().view(numpy_type(output.dtype)).reshape(out_shapes[name])
                    for name, output in _by_name(launch.outputs)
                }
            )
        return Launched(done, addresses)


def _by_name(outputs: tuple[object, ...]) -> list[tuple[str, object]]:
    return [(output.name, output) for output in outputs]


def _locked(memory: Memory, array: Array) -> Array:
    """A page-locked copy, as bytes."""
    host = memory.on_host(TensorSpec("bytes", (array.nbytes,), "uint8"))
    host[...] = array.reshape(-1).view(np.uint8)
    return host
