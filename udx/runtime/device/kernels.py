"""Compiled kernels on the GPU: which of a plan's files runs here, and a launch with all of its arguments."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from udx.errors import UdxError
from udx.launch import CompiledKernel, KernelFile, KernelLibrary, Launch
from udx.runtime.device.cuda import Cuda

PLAIN_SHARED_BYTES: Final = 48 * 2**10
"""Dynamic shared memory that every kernel may have; for more it must be asked."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class LoadedKernel:
    """A function on the GPU and one launch of it; ``module`` is what keeps it there."""

    module: Any
    function: Any
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    arguments: tuple[int, ...]

    def enqueue(self, stream: Any) -> None:
        """Launch it on a stream."""
        self.function.prepared_async_call(self.grid, self.block, stream, *self.arguments, shared_size=self.shared_bytes)

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
    cuda: Cuda,
    library: KernelLibrary,
    launch: Launch,
    arch: int,
    *,
    image: Callable[[KernelFile], bytes],
    shapes: Mapping[str, Sequence[int]],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> LoadedKernel:
    """Load a kernel for a GPU and fix its launch on inputs and outputs at these addresses.

    Raises:
        UdxError: no file of the kernel runs on this GPU.
    """
    reasons = []
    for compiled, file in candidates(library, launch, arch):
        try:
            # The driver reads PTX up to a zero byte.
            module = cuda.driver.module_from_buffer(image(file) + (b"\0" if file is compiled.ptx else b""))
        except cuda.driver.Error as error:
            reasons.append(f"{file.name}: {' '.join(str(error).split())[:200]}")
            continue
        return _launchable(cuda, module, compiled, shapes, inputs, outputs)
    raise UdxError(
        f"kernel {launch.kernel} of the plan does not run on a GPU of compute capability {arch // 10}.{arch % 10} "
        f"({'; '.join(reasons) or 'it is compiled for others'}); build the plan again without --arch, or update the "
        "NVIDIA driver"
    )


def _launchable(
    cuda: Cuda,
    module: Any,
    compiled: CompiledKernel,
    shapes: Mapping[str, Sequence[int]],
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> LoadedKernel:
    launch = compiled.launch
    scalars = launch.scalars_for(shapes)
    function = module.get_function(compiled.entry)
    function.prepare("P" * len(inputs) + "i" * len(scalars) + "P" * len(outputs))
    if compiled.shared_bytes > PLAIN_SHARED_BYTES:
        attribute = cuda.driver.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
        function.set_attribute(attribute, compiled.shared_bytes)
    return LoadedKernel(
        module=module,
        function=function,
        grid=launch.grid_for(shapes),
        block=compiled.block,
        shared_bytes=compiled.shared_bytes,
        arguments=(*inputs, *scalars, *outputs),
    )
