"""The grid of pillars as the operators take it: plain numbers, so that they can be attributes of a graph's node."""

from dataclasses import dataclass

from udx.operators import STEPS_PER_METRE as STEPS_PER_METRE


@dataclass(frozen=True, slots=True)
class PillarGrid:
    """Cells from (``x_min``, ``y_min``), ``rows`` along y and ``columns`` along x, and a height range; metres.

    The fields are in the order of the operators' arguments: ``voxelize(points, num_points, *grid.scalars)``.

    Raises:
        ValueError: there is no cell, or the height range is empty.
    """

    x_min: float
    y_min: float
    cell: float
    rows: int
    columns: int
    z_min: float
    z_max: float

    def __post_init__(self) -> None:
        if not (self.rows >= 1 and self.columns >= 1 and self.cell > 0 and self.z_min < self.z_max):
            raise ValueError(f"a pillar grid needs cells of some size and a height range, not {self}")

    @property
    def scalars(self) -> tuple[float, float, float, int, int, float, float]:
        """All fields in order."""
        return self.x_min, self.y_min, self.cell, self.rows, self.columns, self.z_min, self.z_max

    @property
    def num_cells(self) -> int:
        """Cells of one sample."""
        return self.rows * self.columns

    @property
    def z_middle(self) -> float:
        """Middle of the height range, metres."""
        return (self.z_min + self.z_max) / 2

    @property
    def steps_per_cell(self) -> float:
        """Side of a cell in the steps of the sums."""
        return self.cell * STEPS_PER_METRE

    @property
    def largest_step(self) -> int:
        """Bound on the steps that one point can add to a sum."""
        return int(max(self.cell, self.z_max - self.z_min) / 2 * STEPS_PER_METRE) + 2
