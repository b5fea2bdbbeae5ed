"""Triton's JIT compiles every specialisation that training can ask for, on a machine without a GPU.

The JIT makes a kernel of its own for each combination of types, for integers that are 1 and for those that are
multiples of 16; what is compiled ahead of time (``test_compile.py``) knows neither.
"""

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton")

from tests.ops import sass
from tests.ops.pretended_gpu import PretendedDriver, pretended
from tests.ops.test_bev_pool import DTYPES as POOL_DTYPES
from tests.ops.test_bev_pool import random_case
from udx.ops.aot import kernels
from udx.ops.kernels import bev_pool, pillar_features, pillar_scatter, voxelize
from udx.ops.pillar_grid import PillarGrid

GRID = PillarGrid(-4.0, -1.0, 0.5, 4, 16, -2.0, 3.0)


@pytest.fixture
def gpu() -> Iterator[PretendedDriver]:
    with pretended() as driver:
        yield driver


def assert_compiled(gpu: PretendedDriver, *names: str) -> None:
    """These kernels were launched, in this order, and spill nothing."""
    assert [one.name for one in gpu.launched] == list(names)
    for one in gpu.launched:
        assert not sass.spills(sass.instructions(one.cubin)), one


def pool(dtypes: tuple[torch.dtype, torch.dtype], cells: int, channels: int, bins: int = 3) -> None:
    depth, context, index, offsets = random_case(0, batch=1, bins=bins, cells=cells, channels=channels, dtypes=dtypes)
    pooled = bev_pool.pool(depth, context, index, offsets)
    bev_pool.pool_backward(torch.ones_like(pooled), depth, context, index, offsets)


POOLING = "bev_pool_kernel", "invert_plan_kernel", "bev_pool_backward_kernel"


@pytest.mark.parametrize("dtypes", POOL_DTYPES, ids=lambda pair: "-".join(str(one)[6:] for one in pair))
def test_bev_pool_in_every_mixture_of_types(gpu, dtypes):
    pool(dtypes, cells=9, channels=80)
    assert_compiled(gpu, *POOLING)
    float_types = {"*fp32", "*fp16", "*bf16", "*fp64"}
    assert len({kind for kind in gpu.launched[0].signature if kind in float_types}) == len(set(dtypes))


@pytest.mark.parametrize(("cells", "channels", "bins"), [(1, 1, 3), (16, 64, 4), (100, 130, 3)])
def test_bev_pool_for_integers_that_are_one_or_multiples_of_16(gpu, cells, channels, bins):
    pool((torch.float32, torch.float32), cells, channels, bins)
    assert_compiled(gpu, *POOLING)
    assert ("constexpr" in gpu.launched[0].signature[4:6]) == (cells == 1)


@pytest.mark.parametrize("capacity", [1, 16, 300])
def test_voxelization(gpu, capacity):
    points = torch.zeros(1, capacity, 5)
    cell, sums = voxelize.voxelize(points, torch.ones(1, 1).int(), GRID)
    pillar_features.pillar_features(points, torch.zeros_like(cell), torch.zeros_like(sums), GRID)
    assert_compiled(gpu, "voxel_cells_kernel", "voxel_sums_kernel", "pillar_features_kernel")


@pytest.mark.parametrize(
    ("dtype", "points", "channels", "cells"),
    [
        (torch.float32, 1, 1, 1),
        (torch.float32, 32, 64, 16),
        *((dtype, 70, 130, 7) for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)),
    ],
)
def test_pillar_scatter(gpu, dtype, points, channels, cells):
    features = torch.ones(points, channels, dtype=dtype)
    cell = torch.zeros(points, dtype=torch.int32)
    pillars = pillar_scatter.scatter(features, cell, cells)
    pillar_scatter.scatter_backward(torch.ones_like(pillars), features, cell, torch.ones_like(pillars))
    assert_compiled(gpu, "pillar_clear_kernel", "pillar_max_kernel", "pillar_holders_kernel", "pillar_backward_kernel")


def test_this_file_names_every_kernel():
    pillars = {f"pillar_{name}_kernel" for name in ("clear", "max", "holders", "backward", "features")}
    assert {*POOLING, *pillars, "voxel_cells_kernel", "voxel_sums_kernel"} == set(kernels())
