"""Kernels compiled once for all tests."""

from collections.abc import Callable

import pytest

from tests.ptx.cases import ARCHES
from tests.ptx.shipped import CASES, GARBAGE
from udx.launch import Launch
from udx.ops.aot import CompiledImage, compiled


@pytest.fixture(scope="session")
def image_of() -> Callable[[Launch, int], CompiledImage]:
    """The kernel for a launch and an architecture, as ``udx.ops.aot`` compiles it for plans."""
    pytest.importorskip("triton")
    launches: list[Launch] = []
    for case in (*CASES, *GARBAGE):
        if case.launch not in launches:
            launches.append(case.launch)
    images = list(compiled([(launch, arch) for launch in launches for arch in ARCHES]))

    def find(launch: Launch, arch: int) -> CompiledImage:
        return next(one for one in images if (one.kernel.launch, one.kernel.arch) == (launch, arch))

    return find
