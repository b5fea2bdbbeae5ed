"""Every kernel that goes into a plan, executed as it is shipped, against NumPy's kernels."""

import dataclasses
import re
from collections.abc import Callable

import pytest

from tests.ptx.cases import ARCHES, Case, require_equal
from tests.ptx.errors import OutOfBounds, PtxError, Race
from tests.ptx.plan import run_kernel
from tests.ptx.program import parse
from tests.ptx.shipped import CASES, GARBAGE
from udx.launch import Launch
from udx.operators import OPERATORS, PillarClear, VoxelSums
from udx.ops.aot import CompiledImage

ImageOf = Callable[[Launch, int], CompiledImage]


def test_every_operator_is_tried_in_every_type_and_on_garbage():
    for cases in (CASES, GARBAGE):
        assert {type(case.operator) for case in cases} | {OPERATORS[4]} == set(OPERATORS)
    tried = {(type(case.operator), tensor.dtype) for case in CASES for tensor in case.launch.inputs}
    assert tried >= {(kind, dtype) for kind in OPERATORS for types in kind.types for dtype in types[: len(kind.inputs)]}


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_shipped_kernel_does_what_numpy_does(image_of: ImageOf, case: Case, arch: int):
    """Also no access beyond an input or output, no race, every element written, no input changed."""
    require_equal(case, run_kernel(image_of(case.launch, arch), case.inputs, skew=16).outputs)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("case", GARBAGE, ids=lambda case: case.name)
def test_garbage_in_every_integer_reaches_no_foreign_memory(image_of: ImageOf, case: Case, arch: int):
    run_kernel(image_of(case.launch, arch), case.inputs, skew=16)


def changed(image: CompiledImage, pattern: str, by: str) -> CompiledImage:
    """The kernel with another PTX."""
    ptx, count = re.subn(pattern, by, image.ptx.decode())
    assert count
    return dataclasses.replace(image, ptx=ptx.encode())


SUMS = next(case for case in CASES if isinstance(case.operator, VoxelSums))


@pytest.mark.parametrize("arch", ARCHES)
def test_a_shipped_kernel_without_its_barriers_is_found_out(image_of: ImageOf, arch: int):
    image = image_of(SUMS.launch, arch)
    with pytest.raises(Race, match=r"voxel_sums_kernel, line \d+, `.*`: thread \d+ of block"):
        run_kernel(changed(image, r"bar\.sync\s+0;", ""), SUMS.inputs)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_shipped_kernel_that_reaches_further_is_found_out(image_of: ImageOf, arch: int):
    image = image_of(SUMS.launch, arch)
    short = {**SUMS.inputs, "cell": SUMS.inputs["cell"][:-1]}
    with pytest.raises(
        OutOfBounds, match=r"voxel_sums_kernel, line \d+, `.*ld\.global.*: thread \d+ of block .* from cell"
    ):
        run_kernel(image, short)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_shipped_kernel_that_leaves_something_out_is_found_out(image_of: ImageOf, arch: int):
    case = next(case for case in CASES if isinstance(case.operator, PillarClear))
    launch = case.launch
    x = launch.grid[0]
    image = image_of(launch, arch)
    fewer = dataclasses.replace(launch, grid=(f"{x} - 1", *launch.grid[1:]))
    image = dataclasses.replace(image, kernel=dataclasses.replace(image.kernel, launch=fewer))
    with pytest.raises(PtxError, match=r"pillar_clear_kernel leaves \d+ bytes of cleared unwritten, from byte"):
        run_kernel(image, case.inputs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_record_of_a_kernel_is_what_its_ptx_says(image_of: ImageOf, case: Case):
    for arch, target in zip(ARCHES, ("sm_80", "sm_90a", "sm_120a"), strict=True):
        image = image_of(case.launch, arch)
        program = parse(image.ptx.decode())
        assert (program.name, program.target) == (image.kernel.entry, target)
        assert program.threads == image.kernel.block
        kinds = [parameter.type for parameter in program.parameters]
        launch = image.kernel.launch
        assert kinds == ["u64"] * len(launch.inputs) + ["u32"] * len(launch.scalars) + ["u64"] * len(launch.outputs)
