"""The bird's-eye-view grid that every map of udx lives on."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from udx.geometry.arrays import FloatArray

MAX_CELLS_A_SIDE: Final = 4096


@dataclass(frozen=True, slots=True)
class BevGrid:
    """Square cells over a rectangle of the BEV frame, in metres.

    A map on the grid has shape ``(…, H, W)``: row = y, column = x, row 0 at ``y_min``, column 0 at
    ``x_min``. Cell (0, 0) covers ``[x_min, x_min + cell) × [y_min, y_min + cell)``.

    Raises:
        ValueError: a range is empty, not a whole number of cells, or of more than ``MAX_CELLS_A_SIDE``.
    """

    x_min: float
    x_max: float
    y_min: float
    y_max: float
    cell: float

    def __post_init__(self) -> None:
        if not (np.isfinite([self.x_min, self.x_max, self.y_min, self.y_max]).all() and 0 < self.cell < np.inf):
            raise ValueError(f"a grid needs finite bounds and a positive cell, not {self}")
        for axis, low, high in (("x", self.x_min, self.x_max), ("y", self.y_min, self.y_max)):
            cells = (high - low) / self.cell
            if not cells <= MAX_CELLS_A_SIDE:
                raise ValueError(
                    f"{axis} range [{low}, {high}] m has more than {MAX_CELLS_A_SIDE} cells of {self.cell} m"
                )
            if cells < 1 or abs(cells - round(cells)) > 1e-6:
                raise ValueError(f"{axis} range [{low}, {high}] m is not a whole number of {self.cell} m cells")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W): cells along y, cells along x."""
        return round((self.y_max - self.y_min) / self.cell), round((self.x_max - self.x_min) / self.cell)

    @property
    def num_cells(self) -> int:
        """H · W."""
        height, width = self.shape
        return height * width

    def coarsened(self, stride: int) -> "BevGrid":
        """Return the grid of the same ground with cells ``stride`` times as large."""
        return BevGrid(self.x_min, self.x_max, self.y_min, self.y_max, self.cell * stride)

    def flat_index(self, xy_M2: FloatArray) -> NDArray[np.int64]:
        """Row-major cell index of points (M, 2) in metres as int64; −1 outside the grid or not finite."""
        height, width = self.shape
        with np.errstate(invalid="ignore"):
            column = np.floor((xy_M2[:, 0] - self.x_min) / self.cell)
            row = np.floor((xy_M2[:, 1] - self.y_min) / self.cell)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            return np.where(inside, row * width + column, -1).astype(np.int64)
