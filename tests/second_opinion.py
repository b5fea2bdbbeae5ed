"""What losses and masks share in their second implementation: NumPy with plain loops, no code in common with udx."""

from collections.abc import Sequence

import numpy as np

from udx.geometry import BevGrid


def np_points(row: np.ndarray) -> list[tuple[float, float]]:
    """Crucial points of one box."""
    x, y, _, length, width, _, yaw = row[:7]
    heading = np.array([np.cos(yaw), np.sin(yaw)])
    left = np.array([-np.sin(yaw), np.cos(yaw)])
    corners = [
        np.array([x, y]) + front * length / 2 * heading + side * width / 2 * left
        for front, side in ((1, 1), (-1, 1), (-1, -1), (1, -1))
    ]
    edges = [(corners[i] + corners[(i + 1) % 4]) / 2 for i in range(4)]
    return [tuple(point) for point in (*corners, *edges, sum(corners) / 4)]


def np_sample(map_CHW: np.ndarray, x: float, y: float, grid: BevGrid) -> np.ndarray:
    """(C,) of one map at one point, bilinear between cell centres, 0 outside."""
    channels, height, width = map_CHW.shape
    value = np.zeros(channels)
    for row in range(height):
        for column in range(width):
            far_x = abs(x - (grid.x_min + (column + 0.5) * grid.cell)) / grid.cell
            far_y = abs(y - (grid.y_min + (row + 0.5) * grid.cell)) / grid.cell
            if far_x < 1 and far_y < 1:
                value += (1 - far_x) * (1 - far_y) * map_CHW[:, row, column]
    return value


def np_radius(length: float, width: float, overlap: float = 0.7) -> int:
    """All three cases of the rule, as CornerNet's code has them."""
    perimeter, area = length + width, length * width
    roots = []
    for a, b, c in (
        (1, perimeter, area * (1 - overlap) / (1 + overlap)),
        (4, 2 * perimeter, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * perimeter, (overlap - 1) * area),
    ):
        roots.append((b + np.sqrt(b * b - 4 * a * c)) / 2)
    return max(0, int(min(roots)))


def np_mask(boxes: Sequence[np.ndarray], grid: BevGrid, overlap: float = 0.7, least_radius: int = 0) -> np.ndarray:
    """(B, H, W): a Gaussian at every box, the higher one where two overlap."""
    height, width = grid.shape
    mask = np.zeros((len(boxes), height, width))
    for sample, rows in enumerate(boxes):
        for entry in rows:
            column, row = np.floor((entry[0] - grid.x_min) / grid.cell), np.floor((entry[1] - grid.y_min) / grid.cell)
            if not (0 <= column < width and 0 <= row < height):
                continue
            radius = max(least_radius, np_radius(entry[3] / grid.cell, entry[4] / grid.cell, overlap))
            sigma = (2 * radius + 1) / 6
            for i in range(height):
                for j in range(width):
                    if abs(i - row) <= radius and abs(j - column) <= radius:
                        value = np.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * sigma**2))
                        mask[sample, i, j] = max(mask[sample, i, j], value)
    return mask


def np_cells_of_box(row: np.ndarray, grid: BevGrid, slack_m: float = 0.0) -> np.ndarray:
    """(H, W): cells whose centre lies in a rotated box, and the cell of the box's own centre; with a box grown so."""
    height, width = grid.shape
    x, y, _, length, across, _, yaw = row[:7]
    cells = np.zeros((height, width), bool)
    for i in range(height):
        for j in range(width):
            from_centre = complex(grid.x_min + (j + 0.5) * grid.cell - x, grid.y_min + (i + 0.5) * grid.cell - y)
            turned = from_centre * np.exp(-1j * yaw)
            within = abs(turned.real) <= length / 2 + slack_m and abs(turned.imag) <= across / 2 + slack_m
            at_home = i == np.floor((y - grid.y_min) / grid.cell) and j == np.floor((x - grid.x_min) / grid.cell)
            cells[i, j] = within or at_home
    return cells
