"""Compiled kernels on the GPU: which of a plan's files runs here, and a launch with all of its arguments."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Final

import numpy as np

from udx.errors import UdxError
from udx.launch import CompiledKernel, KernelFile, KernelLibrary, Launch
from udx.runtime.device.driver import Argument, Driver, Handle
from udx.runtime.device.errors import CallError
from udx.runtime.device.memory import Memory

PLAIN_SHARED_BYTES: Final = 48 * 2**10
"""Dynamic shared memory that every kernel may have; for more it must be asked."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class LoadedKernel:
    """A function on the GPU and one launch of it."""

    driver: Driver
    function: Handle
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[Argument, ...]

    def enqueue(self, stream: Handle) -> None:
        """Launch it on a stream."""
        self.driver.launch(
            self.function,
            grid=self.grid,
            block=self.block,
            shared_bytes=self.shared_bytes,
            stream=stream,
            arguments=self.arguments,
        )

    def layers(self, _: ModuleType) -> list[str]:
        """How it is launched, in a line."""
        return [f"kernel grid {self.grid} block {self.block} shared {self.shared_bytes}"]


def candidates(library: KernelLibrary, launch: Launch, arch: int) -> Iterator[tuple[CompiledKernel, KernelFile]]:
    """Files of a kernel that an architecture runs, the best first: its own cubin, an older one of its family, PTX.

    A target with a letter at its end, as sm_90a, is for that architecture alone.
    """
    compiled = sorted((one for one in library.kernels if one.launch == launch), key=lambda one: -one.arch)
    older = [one for one in compiled if one.arch < arch and one.target[-1].isdigit()]
    same = [one for one in compiled if one.arch == arch]
    for one in (*same, *(one for one in older if one.arch // 10 == arch // 10)):
        yield one, one.cubin
    for one in (*same, *older):
        yield one, one.ptx


def load_kernel(
    driver: Driver,
    library: KernelLibrary,
    launch: Launch,
    arch: int,
    *,
    image: Callable[[KernelFile], bytes],
    shapes: Mapping[str, Sequence[int]],
    inputs: Sequence[int],
    outputs: Sequence[int],
    memory: Memory,
) -> LoadedKernel:
    """Load a kernel for a GPU and fix its launch on inputs and outputs at these addresses.

    ``memory`` unloads it when it is closed.

    Raises:
        UdxError: no file of the kernel runs on this GPU.
    """
    reasons = []
    for compiled, file in candidates(library, launch, arch):
        try:
            module = load_image(driver, compiled, file, image(file), memory)
        except CallError as error:
            reasons.append(f"{file.name}: {' '.join(str(error).split())[:200]}")
            continue
        return launchable(driver, module, compiled, shapes, inputs, outputs)
    raise UdxError(
        f"kernel {launch.kernel} of the plan does not run on a GPU of compute capability {arch // 10}.{arch % 10} "
        f"({'; '.join(reasons) or 'it is compiled for others'}); build the plan again without --arch, or update the "
        "NVIDIA driver"
    )


def load_image(driver: Driver, compiled: CompiledKernel, file: KernelFile, image: bytes, memory: Memory) -> Handle:
    """Load one of a kernel's two files; ``memory`` unloads it when it is closed.

    Raises:
        CallError: it does not run on this GPU.
    """
    # The driver reads PTX up to a zero byte.
    module = driver.load_module(image + (b"\0" if file is compiled.ptx else b""))
    memory.on_close(lambda: driver.unload_module(module))
    return module


def launchable(
    driver: Driver,
    module: Handle,
    compiled: CompiledKernel,
    shapes: Mapping[str, Sequence[int]],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> LoadedKernel:
    """Fix the launch of a kernel that is loaded, for these addresses and for inputs of these shapes."""
    launch = compiled.launch
    function = driver.find_function(module, compiled.entry)
    if compiled.shared_bytes > PLAIN_SHARED_BYTES:
        driver.allow_shared_bytes(function, compiled.shared_bytes)
    return LoadedKernel(
        driver=driver,
        function=function,
        grid=launch.grid_for(shapes),
        block=compiled.block,
        shared_bytes=compiled.shared_bytes,
        arguments=(
            *(np.uint64(address) for address in inputs),
            *(np.int32(scalar) for scalar in launch.scalars_for(shapes)),
            *(np.uint64(address) for address in outputs),
        ),
    )
