"""The NumPy kernels, launched as a plan launches them, against the torch operators and the Triton kernels' guards."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.test_bev_pool import pooled_by_loop, random_case
from tests.ops.test_pillar_scatter import scattered
from tests.ops.test_voxelize import GRID, clouds
from udx.errors import UdxError
from udx.launch import Launch
from udx.operators import (
    OPERATORS,
    BevPool,
    Operator,
    PillarClear,
    PillarFeatures,
    PillarMax,
    TensorType,
    VoxelCells,
    VoxelSums,
)
from udx.ops import PillarGrid, bev_pool, pillar_features, pillar_scatter, voxelize
from udx.runtime.numpy_kernels import KERNELS, require_kernels, run_kernel


def launch_of(operator: Operator, *inputs: np.ndarray) -> Launch:
    return operator.launch([TensorType(given.dtype.name, given.shape) for given in inputs])


def run(operator: Operator, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
    """Launch on memory full of garbage; an output that is written in place is its input itself."""
    launch = launch_of(operator, *inputs)
    by_name = dict(zip(operator.inputs, inputs, strict=True))
    shapes = launch.outputs_for({name: tensor.shape for name, tensor in by_name.items()})
    outputs = []
    for output, shape in zip(launch.outputs, shapes, strict=True):
        fresh = np.full(shape, -77, output.dtype)
        outputs.append(by_name[output.aliases] if output.aliases else fresh)
    kept = {name: tensor.copy() for name, tensor in by_name.items()}
    run_kernel(launch, inputs, outputs)
    for name, tensor in by_name.items():
        if name not in {output.aliases for output in launch.outputs}:
            np.testing.assert_array_equal(tensor, kept[name])
    return tuple(outputs)


def voxelized(points: np.ndarray, num_points: np.ndarray, grid: PillarGrid) -> tuple[np.ndarray, np.ndarray]:
    place = grid.x_min, grid.y_min, grid.cell
    cell, cleared = run(VoxelCells(*place, grid.rows, grid.columns, grid.z_min, grid.z_max), points, num_points)
    assert not cleared.any()
    (sums,) = run(VoxelSums(*place, grid.z_middle), points, num_points, cell, cleared)
    return cell, sums


def test_every_operator_has_a_kernel_here():
    place = GRID.x_min, GRID.y_min, GRID.cell
    points, count, cell = np.zeros((1, 2, 5), np.float32), np.zeros((1, 1), np.int32), np.zeros(2, np.int32)
    sums, features, pillars = np.zeros((9, 4), np.int32), np.zeros((2, 3), np.float16), np.zeros((8, 3), np.float32)
    frustum = np.zeros((1, 1, 1, 1, 1), np.float32)
    launches = [
        launch_of(BevPool(), frustum, frustum, count, count),
        launch_of(VoxelCells(*place, GRID.rows, GRID.columns, GRID.z_min, GRID.z_max), points, count),
        launch_of(VoxelSums(*place, GRID.z_middle), points, count, cell, sums),
        launch_of(PillarFeatures(*place, GRID.z_middle), points, cell, sums),
        launch_of(PillarClear(num_cells=8), features),
        launch_of(PillarMax(), features, cell, pillars),
    ]
    require_kernels(launches, "student.onnx")
    assert {launch.kernel for launch in launches} == set(KERNELS)
    assert len(launches) == len(OPERATORS)


def test_what_numpy_cannot_do_is_said_before_it_is_tried():
    features = TensorType("bfloat16", (4, 2))
    with pytest.raises(UdxError, match=r"student\.onnx: NumPy knows no bfloat16, which pillar_clear_kernel takes"):
        require_kernels([PillarClear(num_cells=3).launch([features])], "student.onnx")
    other = Launch(kernel="k", inputs=(), scalars=(), outputs=(), constants={}, grid=("1", "1", "1"), num_warps=1)
    with pytest.raises(UdxError, match=r"student\.onnx launches k, which this udx does not know"):
        require_kernels([other], "student.onnx")


@settings(max_examples=60)
@given(cloud=clouds())
def test_cells_sums_and_features_have_the_torch_operators_bits(cloud):
    grid, points, counts = cloud
    expected_cell, expected_sums = voxelize(points, counts, *grid.scalars)
    cell, sums = voxelized(points.numpy(), counts.numpy(), grid)
    np.testing.assert_array_equal(cell, expected_cell.numpy())
    np.testing.assert_array_equal(sums, expected_sums.numpy())
    place = PillarFeatures(grid.x_min, grid.y_min, grid.cell, grid.z_middle)
    (features,) = run(place, points.numpy(), cell, sums)
    expected = pillar_features(points, expected_cell, expected_sums, *grid.scalars)
    np.testing.assert_array_equal(features, expected.numpy())


def test_counts_beyond_the_buffer_are_tallied():
    points = np.full((2, 3, 5), 0.1, np.float32)
    cell, sums = voxelized(points, np.array([[1000], [-7]], np.int32), GRID)
    assert cell.tolist() == [40, 40, 40, *[2 * GRID.num_cells] * 3]
    assert sums[-1].tolist() == [0, 0, 997, 997]
    assert sums[40].tolist() == [3 * int(-0.15 * 1024 - 1), 3 * int(-0.15 * 1024 - 1), 3 * int(-0.4 * 1024 - 1), 3]


def test_a_cell_number_that_is_none_reaches_no_memory():
    points = np.full((1, 4, 5), 0.1, np.float32)
    cell = np.array([40, -1, 2**31 - 1, -(2**31)], np.int32)
    count = np.array([[4]], np.int32)
    place = GRID.x_min, GRID.y_min, GRID.cell, GRID.z_middle
    (sums,) = run(VoxelSums(*place), points, count, cell, np.zeros((GRID.num_cells + 1, 4), np.int32))
    assert sums[:, 3].tolist() == [0] * 40 + [1] + [0] * (GRID.num_cells - 40)
    (features,) = run(PillarFeatures(*place), points, cell, sums)
    assert features[0].any()
    assert not features[1:].any()
    (pillars,) = run(PillarMax(), np.ones((4, 2), np.float32), cell, np.zeros((50, 2), np.float32))
    assert pillars.sum() == 2
    assert (pillars[40] == 1).all()


@settings(max_examples=60)
@given(case=scattered(relu=False))
def test_maxima_have_the_torch_operators_bits(case):
    features, cell, cells = case
    if features.dtype not in (torch.float32, torch.float16) or not len(features):
        features, cell = features.float(), cell
    if not len(features):
        return
    (cleared,) = run(PillarClear(num_cells=cells), features.numpy())
    assert cleared.dtype == np.float32
    assert not cleared.any()
    (pillars,) = run(PillarMax(), features.numpy(), cell.numpy(), cleared)
    np.testing.assert_array_equal(pillars, pillar_scatter(features, cell, cells).float().numpy())


def test_a_maximum_keeps_what_is_higher_and_not_a_number_is_the_highest():
    features = np.array([[1.0], [np.nan], [np.inf], [2.0], [-1.0], [-np.nan]], np.float32)
    there = np.array([[0.5], [3.0], [0.25], [0.0]], np.float32)
    (pillars,) = run(PillarMax(), features, np.array([0, 0, 0, 1, 2, 3], np.int32), there)
    np.testing.assert_array_equal(pillars, [[np.nan], [3.0], [0.25], [np.nan]])


sizes = {name: st.integers(1, 3) for name in ("batch", "cameras", "bins", "height", "width", "channels")}
floats = st.sampled_from([torch.float32, torch.float16])


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), cells=st.integers(1, 12), dtypes=st.tuples(floats, floats), **sizes)
def test_pooling_equals_a_plain_loop_and_the_torch_operator(seed, **shape):
    case = random_case(seed, **shape)
    (pooled,) = run(BevPool(), *(tensor.numpy() for tensor in case))
    accuracy = 1e-5 if case[1].dtype == torch.float32 else 2e-3
    expected = pooled_by_loop(*case)
    np.testing.assert_allclose(pooled, expected, rtol=accuracy, atol=accuracy * max(1, np.abs(expected).max()))
    np.testing.assert_allclose(pooled, bev_pool(*case).numpy(), rtol=accuracy, atol=accuracy)


def test_pooling_adds_in_the_order_of_the_index():
    """In FP32, 2²⁴ + 1 + 1 is 2²⁴ from the left, and 2²⁴ + 2 from the right."""
    depth = np.ones((1, 1, 1, 1, 3), np.float32)
    context = np.array([2.0**24, 1.0, 1.0], np.float32).reshape(1, 1, 1, 3, 1)
    offsets = np.array([[0, 3]], np.int32)
    for index, expected in (([0, 1, 2], 2.0**24), ([1, 2, 0], 2.0**24 + 2)):
        (pooled,) = run(BevPool(), depth, context, np.array([index], np.int32), offsets)
        assert pooled.item() == expected


def test_half_precision_is_summed_in_single():
    depth = np.full((1, 1, 4097, 1, 1), 2.0**-12, np.float16)
    depth[0, 0, 0] = 1.0
    index, offsets = np.arange(4097, dtype=np.int32)[None], np.array([[0, 4097]], np.int32)
    (pooled,) = run(BevPool(), depth, np.ones((1, 1, 1, 1, 1), np.float16), index, offsets)
    assert pooled.dtype == np.float16
    assert pooled.item() == 2.0


def test_a_bad_pooling_plan_reaches_no_memory():
    """As the Triton kernel's own test: what is no point adds nothing, and offsets are clamped."""
    depth, context = np.full((1, 1, 4, 1, 1), 2.0, np.float32), np.ones((1, 1, 1, 1, 1), np.float32)
    index = np.array([[-1, 0, 2**31 - 1, 4, 3, -(2**31)]], np.int32)  # 0 and 3 are points
    for offsets, expected in (
        ([0, 3, 6], [2, 2]),
        ([-(2**31), 5, 2**31 - 1], [4, 0]),
        ([4, 2, 6], [0, 2]),
    ):
        (pooled,) = run(BevPool(), depth, context, index, np.array([offsets], np.int32))
        assert pooled.flatten().tolist() == expected


def test_what_is_no_number_stays_out_of_cells_that_do_not_pool_it():
    depth = np.array([np.nan, 1.0], np.float32).reshape(1, 1, 2, 1, 1)
    context = np.full((1, 1, 1, 1, 1), 3.0, np.float32)
    index = np.array([[1, 0, -5]], np.int32)
    (pooled,) = run(BevPool(), depth, context, index, np.array([[0, 1, 2, 3]], np.int32))
    np.testing.assert_array_equal(pooled.flatten(), [3.0, np.nan, 0.0])


def test_it_needs_neither_torch_nor_a_compiler():
    code = "import sys, udx.runtime.numpy_kernels; assert not {'torch', 'triton', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
