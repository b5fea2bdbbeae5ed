"""The interpreter of PTX against Triton's own interpreter, which never sees PTX: two ways to the same bits."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from tests.ops import homes
from tests.ptx.cases import Case, maxima, zeros
from tests.ptx.plan import run_kernel
from udx.launch import Launch
from udx.ops.aot import CompiledImage


@pytest.fixture(scope="module")
def triton_interpreter() -> Iterator[homes.Home]:
    pytest.importorskip("triton")
    home = homes.interpreter()
    yield home
    home.pool.shutdown()


def scattered(features: torch.Tensor, cell: torch.Tensor, cells: int) -> torch.Tensor:
    """The map in FP32, as the kernels leave it."""
    from udx.ops.kernels.pillar_scatter import scatter

    return scatter(features, cell, cells).float()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_both_interpreters_agree_on_the_maxima(
    triton_interpreter: homes.Home, image_of: Callable[[Launch, int], CompiledImage], dtype: str
):
    case = maxima(dtype)
    cells, channels = case.inputs["cleared"].shape
    empty = Case(
        case.name, case.operator, {**case.inputs, "cleared": np.zeros((cells, channels), np.float32)}, case.dtypes
    )
    found = run_kernel(image_of(empty.launch, 80), empty.inputs).outputs["pillars"]
    raw = case.inputs["features"]
    features = (
        torch.from_numpy(raw.view(np.int16)).view(torch.bfloat16) if dtype == "bfloat16" else torch.from_numpy(raw)
    )
    expected = triton_interpreter.run(scattered, features, torch.from_numpy(case.inputs["cell"]), cells)
    np.testing.assert_array_equal(found, expected.numpy())
    assert np.isnan(found).any() and (found > 0).any()


def test_zeros_are_zeros(image_of: Callable[[Launch, int], CompiledImage]):
    case = zeros("float32")
    assert not run_kernel(image_of(case.launch, 90), case.inputs).outputs["cleared"].any()
