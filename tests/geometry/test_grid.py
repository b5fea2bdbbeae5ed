import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from udx.geometry import BevGrid

GRID = BevGrid(-4.0, 4.0, -2.0, 4.0, 0.5)  # 16 columns along x, 12 rows along y


def test_shape_is_rows_along_y_by_columns_along_x():
    assert GRID.shape == (12, 16)
    assert GRID.num_cells == 192


def test_cells_by_hand():
    points = np.array([[-4.0, -2.0], [-3.51, -1.51], [-3.5, -2.0], [-4.0, -1.5], [3.99, 3.99], [0.0, 0.0]])
    assert GRID.flat_index(points).tolist() == [0, 0, 1, 16, 191, 4 * 16 + 8]


def test_outside_and_not_finite_is_minus_one():
    points = np.array([[-4.01, 0], [4.0, 0], [0, 4.0], [0, -2.01], [np.nan, 0], [0, np.inf]])
    assert GRID.flat_index(points).tolist() == [-1] * 6
    assert GRID.flat_index(points).dtype == np.int64


@given(st.integers(0, 11), st.integers(0, 15), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_any_point_of_a_cell_has_its_index(row, column, up, right):
    point = np.array([[-4.0 + 0.5 * (column + right), -2.0 + 0.5 * (row + up)]])
    assert GRID.flat_index(point)[0] == row * 16 + column


def test_coarser_grid_covers_the_same_ground():
    coarse = GRID.coarsened(2)
    assert coarse == BevGrid(-4.0, 4.0, -2.0, 4.0, 1.0)
    assert coarse.shape == (6, 8)
    with pytest.raises(ValueError, match=r"y range \[-2.0, 4.0\] m is not a whole number of 2.5 m cells"):
        BevGrid(-5.0, 5.0, -2.0, 4.0, 0.5).coarsened(5)


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ((0, 0, 0, 1, 0.5), "x range"),
        ((1, 0, 0, 1, 0.5), "x range"),
        ((0, 1, 0, 1.2, 0.5), "y range"),
        ((0, 1, 0, 1, 0), "positive cell"),
        ((0, 1, 0, 1, -0.5), "positive cell"),
        ((0, float("inf"), 0, 1, 0.5), "finite bounds"),
        ((0, 1, 0, 1, float("nan")), "positive cell"),
    ],
)
def test_impossible_grids_are_refused(bounds, sentence):
    with pytest.raises(ValueError, match=sentence):
        BevGrid(*bounds)


def test_the_papers_grid():
    assert BevGrid(-51.2, 51.2, -51.2, 51.2, 0.1).shape == (1024, 1024)  # despite rounding of 102.4 / 0.1
