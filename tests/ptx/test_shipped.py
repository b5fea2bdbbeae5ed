"""Every kernel that goes into a plan, executed as it is shipped, against NumPy's kernels."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.ptx.cases import ARCHES, Case, as_float32
from tests.ptx.plan import run_kernel
from tests.ptx.shipped import CASES, GARBAGE
from udx.launch import Launch
from udx.operators import OPERATORS, BevPool
from udx.ops.aot import CompiledImage

ImageOf = Callable[[Launch, int], CompiledImage]
DIGITS = {"float32": 24, "float16": 11, "bfloat16": 8}


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
        if isinstance(case.operator, BevPool):
            # The order of a sum is free: FP32 to one part in a million of what is added, and rounded to the type.
            scale = absolute(case).expected[output.name].astype(np.float64)
            last_bit = np.abs(expected.astype(np.float64)) * 2.0 ** (1 - DIGITS[output.dtype])
            assert (np.abs(found.astype(np.float64) - expected) <= 1e-6 * scale + last_bit).all()
        else:
            np.testing.assert_array_equal(found, expected)


def absolute(case: Case) -> Case:
    """The case with features that are all positive."""
    signs = {"float32": 0x7FFFFFFF, "float16": 0x7FFF, "bfloat16": 0x7FFF}
    inputs = dict(case.inputs)
    for name, dtype in case.dtypes.items():
        raw = inputs[name].view(np.uint32 if dtype == "float32" else np.uint16)
        inputs[name] = (raw & raw.dtype.type(signs[dtype])).view(inputs[name].dtype)
    return Case(case.name, case.operator, inputs, case.dtypes)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("case", GARBAGE, ids=lambda case: case.name)
def test_garbage_in_every_integer_reaches_no_foreign_memory(image_of: ImageOf, case: Case, arch: int):
    run_kernel(image_of(case.launch, arch), case.inputs, skew=16)
