"""pillar_scatter in all its homes: hand-computed maxima, NumPy, the order of points, gradients, what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops import homes
from udx.ops import pillar_scatter

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@st.composite
def scattered(draw, relu=True):
    """Features (M, C) with many ties, their cells, and the number of cells."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    points, channels = draw(st.integers(0, 90)), draw(st.integers(1, 5))
    cells = draw(st.sampled_from([1, 3, 20]))
    features = rng.integers(0 if relu else -4, 4, (points, channels)) / 4
    features[rng.random(features.shape) < 0.5] *= rng.random()
    dtype = draw(st.sampled_from(DTYPES))
    return torch.from_numpy(features).to(dtype), torch.from_numpy(rng.integers(0, cells + 1, points)).int(), cells


def by_numpy(features, cell, num_cells):
    pillars = np.zeros((num_cells, features.shape[1]))
    for value, its_cell in zip(features.double().numpy(), cell.tolist(), strict=True):
        if its_cell < num_cells:
            pillars[its_cell] = np.maximum(pillars[its_cell], value)
    return pillars


def gradient_by_numpy(grad, features, cell, num_cells):
    pillars, values = by_numpy(features, cell, num_cells), features.double().numpy()
    result = np.zeros(values.shape)
    for its_cell in range(num_cells):
        for channel in range(values.shape[1]):
            own = [m for m in range(len(values)) if cell[m] == its_cell]
            holders = [m for m in own if values[m, channel] == pillars[its_cell, channel] > 0]
            for m in holders:
                result[m, channel] = grad[its_cell, channel].item() / len(holders)
    return result


def test_the_maximum_of_a_cell_by_hand(home):
    features = torch.tensor([[1.0, 5.0], [3.0, 2.0], [9.0, 9.0], [-1.0, 0.5]])
    pillars = home("pillar_scatter", features, torch.tensor([1, 1, 3, 0]).int(), 3)
    assert pillars.tolist() == [[0, 0.5], [3, 5], [0, 0]]


def test_not_a_number_is_the_greatest_of_all(home):
    features = torch.tensor([[1.0], [float("nan")], [float("inf")], [2.0]])
    for values in (features, -features.abs()):
        pillars = home("pillar_scatter", values, torch.tensor([0, 0, 0, 1]).int(), 2)
        assert pillars[0].isnan()
    assert pillars[1] == 0


@settings(max_examples=30)
@given(scattered(relu=False))
def test_equals_numpy(home, case):
    features, cell, cells = case
    pillars = home("pillar_scatter", features, cell, cells)
    assert pillars.dtype == features.dtype
    np.testing.assert_array_equal(pillars.double().numpy(), by_numpy(features, cell, cells))


@settings(max_examples=20)
@given(scattered(relu=False), st.integers(0, 10**6))
def test_the_gradient_goes_to_the_maximum_in_equal_shares(home, case, seed):
    features, cell, cells = case
    grad = torch.from_numpy(np.random.default_rng(seed).normal(size=(cells, features.shape[1]))).to(features.dtype)
    (got,) = home.run(homes.gradients, "pillar_scatter", grad, 1, features, cell, cells)
    assert got.dtype == features.dtype
    accuracy = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}[features.dtype]
    np.testing.assert_allclose(got.double(), gradient_by_numpy(grad, features, cell, cells), rtol=accuracy, atol=1e-7)


@settings(max_examples=20)
@given(scattered(), st.integers(0, 10**6))
def test_the_order_of_points_changes_nothing(home, case, seed):
    features, cell, cells = case
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(cell)))
    pillars = home("pillar_scatter", features, cell, cells)
    assert torch.equal(pillars, home("pillar_scatter", features[order], cell[order], cells))
    grad = torch.linspace(-1, 1, pillars.numel()).view(pillars.shape).to(pillars.dtype)
    (straight,) = home.run(homes.gradients, "pillar_scatter", grad, 1, features, cell, cells)
    (shuffled,) = home.run(homes.gradients, "pillar_scatter", grad, 1, features[order], cell[order], cells)
    assert torch.equal(straight[order], shuffled)


def test_points_and_channels_beyond_one_block_of_a_kernel(home):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.random((70, 130)).astype(np.float32))
    cell = torch.from_numpy(rng.integers(0, 8, 70)).int()
    pillars = home("pillar_scatter", features, cell, 7)
    np.testing.assert_array_equal(pillars.numpy(), by_numpy(features, cell, 7).astype(np.float32))


def test_no_cells_or_no_channels_make_an_empty_map(home):
    assert home("pillar_scatter", torch.ones(2, 3), torch.zeros(2).int(), 0).shape == (0, 3)
    assert home("pillar_scatter", torch.ones(2, 0), torch.zeros(2).int(), 4).shape == (4, 0)


def test_the_gradient_is_that_of_finite_differences(home):
    features = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    assert home.run(homes.passes_gradcheck, "pillar_scatter", 1, features, torch.tensor([0, 1, 0, 2, 3, 1]).int(), 3)


def test_torch_sees_through_the_operator(home):
    case = torch.rand(4, 2), torch.tensor([0, 2, 1, 0]).int(), 2
    assert home.run(homes.opcheck, "pillar_scatter", 1, *case) == {"SUCCESS"}
    assert torch.equal(home.run(homes.compiled, "pillar_scatter", *case), home("pillar_scatter", *case))


@pytest.mark.parametrize("cell", [-1, 4])
def test_the_reference_refuses_a_cell_out_of_bounds(cell):
    with pytest.raises(ValueError, match="cell must hold 0 to 3, but holds others"):
        pillar_scatter(torch.ones(1, 1), torch.tensor([cell]).int(), 3)


def test_kernels_keep_a_cell_out_of_bounds_from_memory(kernel_home):
    features, cell = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([-1, 1, 2**31 - 1, -(2**31)]).int()
    pillars = kernel_home.run(homes.launch, "pillar_scatter", "scatter", features, cell, 2)
    assert pillars.tolist() == [[0], [2]]
    grad = kernel_home.run(
        homes.launch, "pillar_scatter", "scatter_backward", torch.ones(2, 1), features, cell, pillars
    )
    assert grad.tolist() == [[0], [1], [0], [0]]


@pytest.mark.parametrize(
    ("features", "cell", "said"),
    [
        (torch.ones(2, 1).int(), torch.zeros(2).int(), "features must be float32 or float16 or bfloat16 or float64"),
        (torch.ones(2, 1), torch.zeros(2), "cell must be int32, not float32"),
        (torch.ones(2, 1), torch.zeros(3).int(), r"cell must have shape \(2\), not \(3,\)"),
        (torch.ones(2, 1), torch.zeros(4).int()[::2], r"cell must be contiguous, not strided \(2,\)"),
        (torch.ones(3, 2).T, torch.zeros(2).int(), "features must be contiguous"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(features, cell, said):
    with pytest.raises(ValueError, match=said):
        pillar_scatter(features, cell, 3)


def test_a_map_of_more_entries_than_can_be_numbered_is_refused():
    with pytest.raises(ValueError, match="the map: 2147483648 entries are more"):
        pillar_scatter(torch.ones(1, 2), torch.zeros(1).int(), 2**30)
