"""Every kernel that goes into a plan, executed as it is shipped, against NumPy's kernels."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.ptx.cases import ARCHES, Case, as_float32, cast
from tests.ptx.plan import run_kernel
from tests.ptx.shipped import CASES, GARBAGE
from udx.launch import Launch
from udx.operators import OPERATORS
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
    done = run_kernel(image_of(case.launch, arch), case.inputs, skew=16)
    for output in case.launch.outputs:
        found, expected = as_float32(done.outputs[output.name], output.dtype), case.expected[output.name]
        if output.dtype == "bfloat16":
            expected = as_float32(cast(expected, output.dtype), output.dtype)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("case", GARBAGE, ids=lambda case: case.name)
def test_garbage_in_every_integer_reaches_no_foreign_memory(image_of: ImageOf, case: Case, arch: int):
    run_kernel(image_of(case.launch, arch), case.inputs, skew=16)
