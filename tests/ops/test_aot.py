"""What is done to the compiler's output, and where it does not run. What it compiles is in ``test_compile.py``."""

import re
import sys

import pytest

from udx.errors import UdxError
from udx.operators import PillarClear, TensorType
from udx.ops import aot

LAUNCH = PillarClear(4).launch([TensorType("float32", (3, 2))])

PTX = """.version 7.0
.target sm_80
.address_size 64
.visible .entry add(
	.param .u64 .ptr .global .align 1 add_param_0,
	.param .u32 add_param_1,
	.param .u64 .ptr .global .align 1 add_param_2,
	.param .u64 .ptr .global .align 1 add_param_3
)
{
	.reg .b64 	%rd<3>;
	ld.param.b64 	%rd1, [add_param_0];
	ret;
}
"""


def test_hidden_pointers_are_taken_out():
    edited = aot.without_hidden_pointers(PTX, arguments=2)
    assert re.findall(r"add_param_\d", edited) == ["add_param_0", "add_param_1", "add_param_0"]
    assert edited.count("(") == edited.count(")") == 1
    assert re.search(r"add_param_1\s*\)\s*\{", edited)


def test_a_hidden_pointer_that_is_read_stays_no_secret():
    with pytest.raises(AssertionError, match="add_param_3 is read"):
        aot.without_hidden_pointers(PTX.replace("[add_param_0]", "[add_param_3]"), arguments=2)


def test_another_number_of_parameters_is_no_secret_either():
    with pytest.raises(AssertionError, match="add has 4 parameters"):
        aot.without_hidden_pointers(PTX, arguments=3)


def test_an_interpreter_compiles_nothing(monkeypatch):
    knobs = pytest.importorskip("triton").knobs
    monkeypatch.setattr(knobs.runtime, "interpret", True)
    with pytest.raises(UdxError, match="unset TRITON_INTERPRET"):
        next(aot.compiled([(LAUNCH, 80)]))


def test_an_unknown_target_is_refused():
    pytest.importorskip("triton")
    with pytest.raises(UdxError, match="sm_75 is not a target; choose from 80, 86"):
        next(aot.compiled([(LAUNCH, 75)]))


def test_without_triton_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UdxError, match="not installed; pip install triton"):
        next(aot.compiled([(LAUNCH, 80)]))


def test_several_at_a_time_come_in_order():
    pytest.importorskip("triton")
    jobs = [(LAUNCH, arch) for arch in (90, 80, 90, 86)]
    images = list(aot.compiled(jobs))
    assert [image.kernel.arch for image in images] == [90, 80, 90, 86]
    assert images[0] == images[2]
