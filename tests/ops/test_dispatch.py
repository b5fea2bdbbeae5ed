"""Where operators run, and what they say to tensors that do not fit."""

import subprocess
import sys

import pytest
import torch

from udx.errors import UdxError
from udx.ops import voxelize
from udx.ops.dispatch import require, require_countable, runs_kernels

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # any import of it fails
import torch
from udx.ops import pillar_scatter
assert pillar_scatter(torch.ones(1, 2), torch.zeros(1).int(), 3).sum() == 2
"""


def test_the_cpu_needs_no_triton():
    subprocess.run([sys.executable, "-c", WITHOUT_TRITON], check=True)


def test_kernels_without_triton_are_a_sentence(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UdxError, match="BEV operators on cpu need Triton, which is not installed: pip install triton"):
        voxelize(torch.zeros(1, 1, 3), torch.ones(1, 1).int(), 0.0, 0.0, 1.0, 2, 2, -1.0, 1.0)


def test_other_devices_are_refused():
    with pytest.raises(ValueError, match="run on cpu and cuda, not on meta"):
        runs_kernels(torch.empty(1, device="meta"))


def test_the_interpreter_is_asked_for_by_triton_s_own_variable(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not runs_kernels(torch.empty(1))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert runs_kernels(torch.empty(1))


def test_a_tensor_elsewhere_is_refused():
    with pytest.raises(ValueError, match="num_points must be on cpu like the other inputs, not on meta"):
        require("num_points", torch.empty(1, device="meta"), (torch.float32,), (1,), torch.device("cpu"))


@pytest.mark.gpu
def test_inputs_on_two_devices_are_refused():
    with pytest.raises(ValueError, match="num_points must be on cuda:0 like the other inputs, not on cpu"):
        voxelize(torch.zeros(1, 1, 3).cuda(), torch.ones(1, 1).int(), 0.0, 0.0, 1.0, 2, 2, -1.0, 1.0)


def test_entries_are_numbered_with_32_bits():
    require_countable("points", 2**31 - 1)
    with pytest.raises(ValueError, match="points: 2147483648 entries"):
        require_countable("points", 2**31)
