"""Kernels as plans hold them: compiled ahead of time, in a folder with their index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ptx.cases import Case
from udx.launch import CompiledKernel, KernelFile, KernelLibrary, Launch, read_image, read_library, write_library
from udx.runtime.device.kernels import candidates


@dataclass(frozen=True)
class Images:
    """A library and where its files are."""

    folder: Path
    library: KernelLibrary

    def running_on(self, launch: Launch, arch: int) -> list[tuple[CompiledKernel, KernelFile, bytes]]:
        """All files of a kernel that a plan may load on an architecture, the best first."""
        found = candidates(self.library, launch, arch)
        return [(kernel, file, read_image(self.folder, file)) for kernel, file in found]


def compile_images(cases: Sequence[Case], arches: Sequence[int], folder: Path) -> Images:
    """Compile the kernels of cases as a build does; their index and files go into a folder."""
    pytest.importorskip("triton", reason="compiles the kernels of plans")
    from udx.ops.aot import compiled

    launches: list[Launch] = []
    for case in cases:
        if case.launch not in launches:
            launches.append(case.launch)
    images = list(compiled([(launch, one) for launch in launches for one in arches]))
    files: Mapping[str, bytes] = {
        name: content
        for image in images
        for name, content in ((image.kernel.ptx.name, image.ptx), (image.kernel.cubin.name, image.cubin))
    }
    library = KernelLibrary(triton="as installed", kernels=tuple(image.kernel for image in images))
    write_library(folder, library, files)
    return Images(folder, library)


def read_images(folder: Path) -> Images:
    """What ``compile_images`` wrote."""
    return Images(folder, read_library(folder))
