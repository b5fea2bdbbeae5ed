"""voxelize and pillar_features in all their homes, against hand-computed cases and NumPy, point after point."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops import homes
from udx.ops import Dropped, PillarGrid, dropped_of, voxelize

GRID = PillarGrid(x_min=-4.0, y_min=-1.0, cell=0.5, rows=4, columns=16, z_min=-2.0, z_max=3.0)
NOWHERE = GRID.num_cells
AWKWARD = PillarGrid(x_min=-0.7, y_min=0.1, cell=0.3, rows=3, columns=2, z_min=-0.3, z_max=0.4)
"""Nothing in it is a binary fraction, so that every operation rounds."""


def buffer(*samples, features=5, capacity=None):
    """Point buffers and counts of samples given as lists of points; missing features are zero."""
    capacity = capacity or max(map(len, samples))
    points = torch.zeros(len(samples), capacity, features)
    for sample, given_points in enumerate(samples):
        if given_points:
            held = torch.tensor(given_points, dtype=torch.float32)
            points[sample, : len(held), : held.shape[1]] = held
    return points, torch.tensor([[len(given_points)] for given_points in samples]).int()


def by_numpy(points, num_points, grid):
    """Cells, sums and tally, one point after the other; FP32 only where the definition says so."""
    single = np.float32
    batch, capacity, _ = points.shape
    nowhere = batch * grid.num_cells
    cells, sums = np.full(batch * capacity, nowhere, np.int32), np.zeros((nowhere + 1, 4), np.int64)
    not_finite = outside = beyond = 0
    for sample in range(batch):
        count = int(num_points[sample, 0])
        beyond += max(count - capacity, 0)
        for slot in range(min(max(count, 0), capacity)):
            point = points[sample, slot].numpy()
            if not np.isfinite(point).all():
                not_finite += 1
                continue
            with np.errstate(over="ignore"):
                across = (point[0] - single(grid.x_min)) / single(grid.cell)
                along = (point[1] - single(grid.y_min)) / single(grid.cell)
            in_heights = single(grid.z_min) <= point[2] < single(grid.z_max)
            if not (0 <= across < grid.columns and 0 <= along < grid.rows and in_heights):
                outside += 1
                continue
            column, row = int(across), int(along)
            cell = sample * grid.num_cells + row * grid.columns + column
            cells[sample * capacity + slot] = cell
            steps = [(across - single(column) - single(0.5)), (along - single(row) - single(0.5))]
            steps = [np.floor(step * single(grid.cell * 1024)) for step in steps]
            sums[cell] += [*map(int, steps), int(np.floor((point[2] - single(grid.z_middle)) * single(1024))), 1]
    sums[-1] = not_finite, outside, beyond, not_finite + outside + beyond
    return cells, sums


def described_by_numpy(points, cells, grid):
    """Features from exact means in FP64; the operators' means are of positions rounded to a step."""
    flat = points.flatten(0, 1).double().numpy()
    features = np.zeros((len(flat), flat.shape[1] + 5))
    for item, cell in enumerate(cells):
        if cell == len(points) * grid.num_cells:
            continue
        row, column = divmod(cell % grid.num_cells, grid.columns)
        centre = grid.x_min + (column + 0.5) * grid.cell, grid.y_min + (row + 0.5) * grid.cell
        mean = flat[cells == cell, :3].mean(axis=0)
        features[item] = [*flat[item], *(flat[item, :3] - mean), *(flat[item, :2] - centre)]
    return features


def test_row_is_y_and_column_is_x(home):
    points, count = buffer([[-4.0, -1.0, 0.0], [3.9, -0.9, 0.0], [-3.9, 0.9, 0.0]])
    cell, _ = home("voxelize", points, count, *GRID.scalars)
    assert cell.tolist() == [0, 15, 3 * 16]


def test_a_cell_owns_its_lower_edges_only(home):
    points, count = buffer([[-3.5, -1, 0], [4.0, -1, 0], [-4, 1, 0], [-4, -1, 3.0], [-4, -1, -2]])
    cell, _ = home("voxelize", points, count, *GRID.scalars)
    assert cell.tolist() == [1, NOWHERE, NOWHERE, NOWHERE, 0]


def test_sums_by_hand(home):
    points, count = buffer([[0.25, 0.25, 0.5], [0.35, 0.25, 1.0], [0.45, 0.05, 0.5]])
    _, sums = home("voxelize", points, count, *GRID.scalars)
    cell = 2 * 16 + 8  # centre at (0.25, 0.25), middle of the heights at 0.5
    # 0.1 m and 0.2 m are 102.4 and 204.8 steps, −0.2 m is −204.8: each rounded down.
    assert sums[cell].tolist() == [102 + 204, -205, 512, 3]
    assert sums[:, 3].sum() == 3


def test_what_is_dropped_is_counted_by_reason(home):
    nan, inf = float("nan"), float("inf")
    points, count = buffer(
        [[0.1, 0.1, 0, 0, 0], [nan, 0, 0, 0, 0], [0, inf, 0, 0, 0], [0, 0, -inf, 0, 0], [0, 0, 0, nan, 0]],
        [[0.1, 0.1, 0, 0, 0], [99, 0, 0, 0, 0], [0, 0, 3.0, 0, 0], [3e38, -3e38, 0, 0, 0], [nan, 0, 0, 0, 0]],
    )
    count[1] = 4  # what stands behind is no point
    cell, sums = home("voxelize", points, count, *GRID.scalars)
    assert cell.tolist() == [2 * 16 + 8, *[2 * NOWHERE] * 4, NOWHERE + 2 * 16 + 8, *[2 * NOWHERE] * 4]
    assert dropped_of(sums) == Dropped(not_finite=4, outside=3, beyond_capacity=0)
    assert sums[:, 3].sum() == count.sum()


def test_points_beyond_the_buffer_are_counted_and_never_read(home):
    points, _ = buffer([[0.1, 0.1, 0]] * 3, [[0.1, 0.1, 0]] * 3)
    cell, sums = home("voxelize", points, torch.tensor([[1000], [-7]]).int(), *GRID.scalars)
    assert dropped_of(sums) == Dropped(not_finite=0, outside=0, beyond_capacity=997)
    assert cell.tolist() == [40, 40, 40, *[2 * NOWHERE] * 3]
    assert sums[:, 3].sum() == 1000


def test_a_buffer_without_room_holds_nothing(home):
    cell, sums = home("voxelize", torch.zeros(2, 0, 5), torch.tensor([[0], [3]]).int(), *GRID.scalars)
    assert cell.shape == (0,)
    assert dropped_of(sums) == Dropped(not_finite=0, outside=0, beyond_capacity=3)
    assert not sums[:-1].any()
    assert home("pillar_features", torch.zeros(2, 0, 5), cell, sums, *GRID.scalars).shape == (0, 10)


def test_all_points_in_one_cell(home):
    rng = np.random.default_rng(0)
    points = torch.from_numpy(rng.uniform([0, 0, 0, 0, 0], [0.5, 0.5, 2, 1, 1], (1, 700, 5)).astype(np.float32))
    cell, sums = home("voxelize", points, torch.tensor([[700]]).int(), *GRID.scalars)
    assert (cell == 40).all()
    np.testing.assert_array_equal(sums.numpy(), by_numpy(points, torch.tensor([[700]]), GRID)[1])
    features = home("pillar_features", points, cell, sums, *GRID.scalars)
    np.testing.assert_allclose(features[:, 5:8].mean(dim=0), 0, atol=1e-3)


@st.composite
def clouds(draw):
    """A grid and a batch of points: anywhere, exactly on edges of cells or a rounding beside them, and broken ones."""
    grid = draw(st.sampled_from([GRID, AWKWARD]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    batch, capacity, features = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.sampled_from([3, 5, 6]))
    edges = grid.x_min, grid.y_min, grid.z_min
    reach = np.array([grid.columns * grid.cell, grid.rows * grid.cell, grid.z_max - grid.z_min])
    points = np.zeros((batch, capacity, features), np.float32)
    points[..., :3] = edges + rng.uniform(-0.2, 1.2, (batch, capacity, 3)) * reach
    points[..., 3:] = rng.random((batch, capacity, features - 3))
    on_edge = (edges + rng.integers(-1, 17, (batch, capacity, 3)) * np.array([grid.cell, grid.cell, 1])).astype(
        np.float32
    )
    beside = np.nextafter(on_edge, np.float32(np.inf) * rng.choice([-1, 1], on_edge.shape).astype(np.float32))
    kind = rng.integers(0, 4, (batch, capacity, 3))
    points[..., :3] = np.choose(kind, [points[..., :3], points[..., :3], on_edge, beside])
    broken = rng.random(points.shape) < draw(st.sampled_from([0, 0.05]))
    points[broken] = rng.choice(
        np.array([np.nan, np.inf, -np.inf, 3e38, -1e-40, 1e-40, -0.0], np.float32), broken.sum()
    )
    counts = rng.integers(-1, capacity + 3, (batch, 1)).astype(np.int32)
    return grid, torch.from_numpy(points), torch.from_numpy(counts)


@settings(max_examples=40)
@given(clouds())
def test_cells_and_sums_equal_numpy_bit_for_bit(home, cloud):
    grid, points, counts = cloud
    cell, sums = home("voxelize", points, counts, *grid.scalars)
    expected_cell, expected_sums = by_numpy(points, counts, grid)
    np.testing.assert_array_equal(cell.numpy(), expected_cell)
    np.testing.assert_array_equal(sums.numpy(), expected_sums)


@settings(max_examples=25)
@given(clouds())
def test_features_equal_numpy(home, cloud):
    grid, points, counts = cloud
    cell, sums = voxelize(points, counts, *grid.scalars)
    features = home("pillar_features", points, cell, sums, *grid.scalars)
    expected = described_by_numpy(points, cell.numpy(), grid)
    # A position is rounded to 1/1024 m for the mean, and a cell found in FP32.
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-6, atol=1 / 1024)
    np.testing.assert_allclose(features[:, -2:].numpy(), expected[:, -2:], atol=1e-5)


@settings(max_examples=25)
@given(clouds())
def test_kernels_and_reference_describe_points_with_the_same_bits(kernel_home, cloud):
    grid, points, counts = cloud
    cell, sums = voxelize(points, counts, *grid.scalars)
    reference = homes.call("pillar_features", points, cell, sums, *grid.scalars)
    assert torch.equal(kernel_home("pillar_features", points, cell, sums, *grid.scalars), reference)


@settings(max_examples=25)
@given(clouds(), st.integers(0, 10**6))
def test_the_order_of_points_changes_nothing(home, cloud, seed):
    grid, points, _ = cloud
    counts = torch.full((len(points), 1), points.shape[1]).int()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(points.shape[1]))
    cell, sums = home("voxelize", points, counts, *grid.scalars)
    features = home("pillar_features", points, cell, sums, *grid.scalars)
    shuffled = points[:, order].contiguous()
    its_cell, its_sums = home("voxelize", shuffled, counts, *grid.scalars)
    its_features = home("pillar_features", shuffled, its_cell, its_sums, *grid.scalars)
    assert torch.equal(cell.view(len(points), -1)[:, order], its_cell.view(len(points), -1))
    assert torch.equal(sums, its_sums)
    assert torch.equal(features.view(*points.shape[:2], -1)[:, order], its_features.view(*points.shape[:2], -1))


def test_torch_sees_through_the_operators(home):
    points, count = torch.rand(2, 7, 5), torch.tensor([[7], [4]]).int()
    assert home.run(homes.opcheck, "voxelize", 0, points, count, *GRID.scalars) == {"SUCCESS"}
    cell, sums = voxelize(points, count, *GRID.scalars)
    described = points, cell, sums, *GRID.scalars
    assert home.run(homes.opcheck, "pillar_features", 0, *described) == {"SUCCESS"}
    assert torch.equal(home.run(homes.compiled, "pillar_features", *described), home("pillar_features", *described))
    compiled = home.run(homes.compiled, "voxelize", points, count, *GRID.scalars)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(compiled, (cell, sums), strict=True))


def test_torch_exports_the_operator():
    class Voxels(torch.nn.Module):
        def forward(self, points, count):
            return voxelize(points, count, *GRID.scalars)

    points, count = torch.rand(2, 7, 5), torch.tensor([[7], [4]]).int()
    exported = torch.export.export(Voxels(), (points, count))
    assert torch.ops.udx.voxelize.default in {node.target for node in exported.graph.nodes}
    other = torch.rand(2, 7, 5)
    assert torch.equal(exported.module()(other, count)[0], voxelize(other, count, *GRID.scalars)[0])


@pytest.mark.parametrize(
    ("points", "count", "said"),
    [
        (torch.zeros(1, 2, 5).half(), torch.zeros(1, 1).int(), "points must be float32, not float16"),
        (torch.zeros(2, 5), torch.zeros(1, 1).int(), r"points must have shape \(any, any, any\), not \(2, 5\)"),
        (torch.zeros(1, 2, 2), torch.zeros(1, 1).int(), "x, y and z, not 2 features"),
        (torch.zeros(1, 5, 2).mT, torch.zeros(1, 1).int(), "points must be contiguous, not strided"),
        (torch.zeros(1, 2, 5), torch.zeros(1, 1), "num_points must be int32, not float32"),
        (torch.zeros(1, 2, 5), torch.zeros(2, 1).int(), r"num_points must have shape \(1, 1\), not \(2, 1\)"),
        (torch.zeros(1, 1_000_000, 3), torch.zeros(1, 1).int(), "1000000 points could overflow a sum of up to 2562"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(points, count, said):
    with pytest.raises(ValueError, match=said):
        voxelize(points, count, *GRID.scalars)


def test_sums_of_other_points_are_refused():
    points, count = buffer([[0.1, 0.1, 0]])
    cell, sums = voxelize(points, count, *GRID.scalars)
    with pytest.raises(ValueError, match=r"sums must have shape \(65, 4\), not \(64, 4\)"):
        homes.call("pillar_features", points, cell, sums[:-1], *GRID.scalars)
    with pytest.raises(ValueError, match=r"cell must have shape \(1\), not \(0,\)"):
        homes.call("pillar_features", points, cell[:0], sums, *GRID.scalars)


@pytest.mark.parametrize("change", [{"rows": 0}, {"cell": 0.0}, {"cell": float("nan")}, {"z_max": -2.0}])
def test_a_grid_without_cells_is_refused(change):
    scalars = {name: getattr(GRID, name) for name in PillarGrid.__slots__} | change
    with pytest.raises(ValueError, match="a pillar grid needs cells"):
        PillarGrid(**scalars)
