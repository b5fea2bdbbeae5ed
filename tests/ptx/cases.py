"""Inputs of every kernel that goes into a plan: ordinary ones, hard ones, and garbage in every integer.

A case is an operator with its inputs; what is launched and what NumPy's kernels answer follow from it through udx's own
interface, so that another kernel behind an operator changes nothing here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from tests.ptx.formats import Array, bfloat16_bits
from tests.ptx.plan import numpy_type
from udx.launch import Launch
from udx.operators import (
    BevPool,
    Operator,
    PillarClear,
    PillarFeatures,
    PillarMax,
    TensorType,
    VoxelCells,
    VoxelSums,
)
from udx.runtime import numpy_kernels

ARCHES = (80, 90, 120)
ROWS, COLUMNS, CELL, X_MIN, Y_MIN, Z_MIN, Z_MAX = 12, 10, 0.3, -1.5, -1.8, -2.0, 4.0
PLACE = (X_MIN, Y_MIN, CELL)
MIDDLE = (Z_MIN + Z_MAX) / 2
INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class Case:
    """Inputs by name, and the types of those that NumPy has no type for."""

    name: str
    operator: Operator
    inputs: dict[str, Array]
    dtypes: dict[str, str]

    @property
    def launch(self) -> Launch:
        """Return what a plan launches for these inputs."""
        return self._launch({name: self.dtypes.get(name, array.dtype.name) for name, array in self.inputs.items()})

    def _launch(self, dtypes: dict[str, str]) -> Launch:
        return self.operator.launch([TensorType(dtypes[name], array.shape) for name, array in self.inputs.items()])

    @property
    def expected(self) -> dict[str, Array]:
        """Compute the outputs with NumPy's kernel; inputs in bfloat16 are widened to FP32."""
        wide = {name: as_float32(array, self.dtypes.get(name)) for name, array in self.inputs.items()}
        launch = self._launch({name: array.dtype.name for name, array in wide.items()})
        shapes = launch.outputs_for({name: array.shape for name, array in wide.items()})
        outputs = {
            output.name: wide[output.aliases] if output.aliases else np.full(shape, -77, output.dtype)
            for output, shape in zip(launch.outputs, shapes, strict=True)
        }
        numpy_kernels.run_kernel(launch, list(wide.values()), list(outputs.values()))
        return outputs


def as_float32(array: Array, dtype: str | None) -> Array:
    """Copy an array; widen bits of bfloat16 to FP32."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return array.copy()


def cast(array: Array, dtype: str) -> Array:
    """Cast FP32 to another type; bfloat16 as its bits."""
    if dtype == "bfloat16":
        raw = bfloat16_bits(array.astype(np.float64))
        return np.where(np.isnan(array), np.uint16(0x7FFF), raw)
    return array.astype(numpy_type(dtype))


def pooling(
    depth: str = "float32",
    context: str = "float32",
    *,
    batch: int = 2,
    channels: int = 24,
    cells: int = 31,
    crowded: int = 70,
    garbage: bool = False,
) -> Case:
    """Build a plan with empty cells, one crowded cell, unused slots and impossible indices; some features are NaN."""
    rng = np.random.default_rng([batch, channels, cells, garbage])
    frustum, rows = (batch, 2, 4, 3, 5), (batch, 2, 3, 5, channels)
    points = 2 * 4 * 3 * 5
    slots = 2 * points + crowded
    index = rng.integers(0, points, (batch, slots), dtype=np.int32)
    index[:, ::17] = -1
    counts = rng.integers(0, 4, (batch, cells)) * (rng.random((batch, cells)) < 0.6)
    counts[:, cells // 2] = crowded
    offsets = np.minimum(np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1), slots - 5).astype(np.int32)
    if garbage:
        index, offsets = any_integer(rng, index.shape, points), any_integer(rng, offsets.shape, slots)
    features = rng.normal(size=rows).astype(np.float32)
    struck = rng.random(rows) < 0.002
    features[struck] = rng.choice(np.array([np.nan, np.inf, -np.inf, -0.0, 1e-40], np.float32), int(struck.sum()))
    return Case(
        name=f"bev_pool-{depth}-{context}-{channels}-{crowded}" + "-garbage" * garbage,
        operator=BevPool(),
        inputs={
            "depth": cast(rng.random(frustum, np.float32), depth),
            "context": cast(features, context),
            "point_index": index,
            "cell_offsets": offsets,
        },
        dtypes={"depth": depth, "context": context},
    )


def any_integer(rng: np.random.Generator, shape: tuple[int, ...], limit: int) -> Array:
    """Draw integers from −2³¹ to 2³¹ − 1: extremes, values around ``limit`` and zero, and others."""
    extremes = np.array([INT32.min, INT32.min + 1, INT32.max, INT32.max - 1, 0, -1], np.int64)
    near = limit + rng.integers(-3, 4, shape)
    kinds = [rng.choice(extremes, shape), near, rng.integers(0, limit, shape), rng.integers(INT32.min, 2**31, shape)]
    result: Array = np.choose(rng.integers(0, 4, shape), kinds).astype(np.int32)
    return result


def cloud(rng: np.random.Generator, batch: int, capacity: int) -> Array:
    """Draw points in and around the range, on the edges of cells, and some NaN and infinities."""
    points = rng.uniform(-2.2, 2.2, (batch, capacity, 5)).astype(np.float32)
    points[..., 2] = rng.uniform(Z_MIN - 0.5, Z_MAX + 0.5, (batch, capacity))
    edges = np.float32(X_MIN) + np.float32(CELL) * rng.integers(0, COLUMNS + 1, (batch, capacity)).astype(np.float32)
    points[..., 0] = np.where(rng.random((batch, capacity)) < 0.2, edges, points[..., 0])
    hard = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, -1e-40, -0.0, X_MIN, Y_MIN, Z_MIN, Z_MAX], np.float32)
    struck = rng.random(points.shape) < 0.03
    points[struck] = rng.choice(hard, int(struck.sum()))
    return points


def voxelization(*, batch: int = 2, capacity: int = 170, garbage: bool = False) -> dict[str, Case]:
    """Build the LiDAR branch up to the features of each point; each kernel takes the outputs of the one before."""
    rng = np.random.default_rng([batch, capacity, garbage])
    cells = batch * ROWS * COLUMNS
    points = cloud(rng, batch, capacity)
    number = np.resize(np.array([capacity - 20, capacity + 9, 0], np.int32), (batch, 1))
    suffix = f"-{batch}x{capacity}" + "-garbage" * garbage
    make = partial(Case, dtypes={})
    if garbage:
        number = any_integer(rng, number.shape, capacity)
    find = VoxelCells(*PLACE, ROWS, COLUMNS, Z_MIN, Z_MAX)
    found = make(f"voxel_cells{suffix}", find, {"points": points, "num_points": number})
    cell, cleared = found.expected["cell"], found.expected["cleared"]
    if garbage:
        cell, cleared = any_integer(rng, cell.shape, cells), any_integer(rng, cleared.shape, cells)
    given = {"points": points, "num_points": number, "cell": cell, "cleared": cleared}
    summed = make(f"voxel_sums{suffix}", VoxelSums(*PLACE, MIDDLE), given)
    sums = any_integer(rng, cleared.shape, cells) if garbage else summed.expected["sums"]
    described = make(
        f"pillar_features{suffix}", PillarFeatures(*PLACE, MIDDLE), {"points": points, "cell": cell, "sums": sums}
    )
    return {"cells": found, "sums": summed, "features": described}


def maxima(dtype: str, *, points: int = 150, channels: int = 24, cells: int = 40, garbage: bool = False) -> Case:
    """Build features of both signs with some NaN and infinities, for a map that is not empty."""
    rng = np.random.default_rng([points, channels, cells, garbage])
    features = rng.normal(size=(points, channels)).astype(np.float32)
    struck = rng.random(features.shape) < 0.02
    features[struck] = rng.choice(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-7], np.float32), int(struck.sum()))
    cell = rng.integers(-1, cells + 1, points).astype(np.int32)
    there = np.where(rng.random((cells, channels)) < 0.3, rng.random((cells, channels)), 0).astype(np.float32)
    return Case(
        name=f"pillar_max-{dtype}-{points}x{channels}" + "-garbage" * garbage,
        operator=PillarMax(),
        inputs={
            "features": cast(features, dtype),
            "cell": any_integer(rng, cell.shape, cells) if garbage else cell,
            "cleared": there,
        },
        dtypes={"features": dtype},
    )


def zeros(dtype: str, *, cells: int = 61, channels: int = 24) -> Case:
    """Build a map whose size is not a multiple of a block."""
    features = cast(np.ones((3, channels), np.float32), dtype)
    return Case(f"pillar_clear-{dtype}-{cells}", PillarClear(cells), {"features": features}, {"features": dtype})


def require_equal(case: Case, outputs: Mapping[str, Array]) -> None:
    """Hold a kernel's outputs to NumPy's, bit for bit."""
    for output in case.launch.outputs:
        found, expected = as_float32(outputs[output.name], output.dtype), case.expected[output.name]
        if output.dtype == "bfloat16":
            expected = as_float32(cast(expected, output.dtype), output.dtype)
        np.testing.assert_array_equal(found, expected)
