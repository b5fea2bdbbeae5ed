"""voxelize and pillar_scatter: hand-computed cells, order of points, bad points, gradients, ONNX functions."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from udx.ops import POSITION_STEP_M, pillar_scatter, voxelize
from udx.ops.onnx_functions import DOMAIN, OPSET, PLUGIN_ATTRIBUTES, function_protos

GRID = {"x_min": -4.0, "y_min": -1.0, "cell": 0.5, "rows": 4, "columns": 16, "z_min": -2.0, "z_max": 3.0}
NOWHERE = 64


def voxelized(points, valid=None):
    points = torch.tensor(points, dtype=torch.float32)
    points = torch.nn.functional.pad(points, (0, 5 - points.shape[1]))
    return voxelize(points, torch.tensor([len(points) if valid is None else valid]).int(), **GRID)


def test_row_is_y_and_column_is_x():
    cell, _ = voxelized([[-4.0, -1.0, 0.0], [3.9, -0.9, 0.0], [-3.9, 0.9, 0.0]])
    assert cell.tolist() == [0, 15, 3 * 16]


def test_a_cell_owns_its_lower_edges_only():
    cell, _ = voxelized([[-3.5, -1.0, 0.0], [4.0, -1.0, 0.0], [-4.0, 1.0, 0.0], [-4.0, -1.0, 3.0], [-4, -1, -2]])
    assert cell.tolist() == [1, NOWHERE, NOWHERE, NOWHERE, 0]


def test_bad_points_are_left_out_and_can_be_counted():
    cell, sums = voxelized([[0.1, 0.1, 0], [np.nan, 0, 0], [0, np.inf, 0], [0, 0, np.nan], [0.1, 0.1, 0]], valid=4)
    assert (cell == NOWHERE).sum() == 4
    assert sums[:, 3].sum() == 1


def test_sums_by_hand():
    _, sums = voxelized([[0.25, 0.25, 0.5], [0.35, 0.25, 1.0], [0.45, 0.05, 0.5]])
    cell = 2 * 16 + 8  # centre at (0.25, 0.25), middle of the heights at 0.5
    steps = round(0.1 / POSITION_STEP_M) + round(0.2 / POSITION_STEP_M), -round(0.2 / POSITION_STEP_M), 512
    assert sums[cell].tolist() == [*steps, 3]
    assert sums[:, 3].sum() == 3


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 200))
def test_the_order_of_points_changes_nothing(seed, count):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-5, 5, (count, 5)).astype(np.float32)
    features = rng.random((count, 3)).astype(np.float32)
    order = rng.permutation(count)
    cell, sums = voxelized(points)
    cell_shuffled, sums_shuffled = voxelized(points[order])
    assert torch.equal(cell[torch.from_numpy(order)], cell_shuffled)
    assert torch.equal(sums, sums_shuffled)
    pillars = pillar_scatter(torch.from_numpy(features), cell, NOWHERE)
    assert torch.equal(pillars, pillar_scatter(torch.from_numpy(features[order]), cell_shuffled, NOWHERE))


def test_half_precision_points_are_refused():
    with pytest.raises(ValueError, match="float32"):
        voxelize(torch.zeros(2, 5, dtype=torch.float16), torch.tensor([2]).int(), **GRID)


def test_a_sum_that_could_overflow_is_refused():
    with pytest.raises(ValueError, match="overflow"):
        voxelize(torch.zeros(1_000_000, 5), torch.tensor([2]).int(), **GRID)


def test_the_maximum_of_a_cell_by_hand():
    features = torch.tensor([[1.0, 5.0], [3.0, 2.0], [9.0, 9.0], [-1.0, 0.5]])
    pillars = pillar_scatter(features, torch.tensor([1, 1, 3, 0]).int(), 3)
    assert pillars.tolist() == [[0, 0.5], [3, 5], [0, 0]]


def test_the_gradient_goes_to_the_maximum_in_equal_shares():
    features = torch.tensor([[1.0], [3.0], [3.0], [2.0], [7.0]], requires_grad=True)
    pillar_scatter(features, torch.tensor([0, 0, 0, 1, 2]).int(), 2).backward(torch.tensor([[4.0], [10.0]]))
    assert features.grad.tolist() == [[0], [2], [2], [10], [0]]


def test_the_gradient_is_that_of_finite_differences():
    features = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    cell = torch.tensor([0, 1, 0, 2, 3, 1]).int()
    assert torch.autograd.gradcheck(lambda given: pillar_scatter(given, cell, 3), features.requires_grad_())


def test_torch_sees_through_the_operators():
    torch.library.opcheck(voxelize, (torch.rand(7, 5), torch.tensor([7]).int(), *GRID.values()))
    torch.library.opcheck(pillar_scatter, (torch.rand(4, 2).requires_grad_(), torch.tensor([0, 2, 1, 0]).int(), 2))


def test_a_cell_out_of_bounds_never_reaches_memory():
    for cell in (-1, 4):
        with pytest.raises(ValueError, match="outside 0 to 3"):
            pillar_scatter(torch.ones(1, 1), torch.tensor([cell]).int(), 3)


def pillars_session(count: int) -> ort.InferenceSession:
    """Both functions in stock ONNX Runtime with two threads, for ``count`` points of three features."""
    inputs = [
        helper.make_tensor_value_info("points", TensorProto.FLOAT, [count, 5]),
        helper.make_tensor_value_info("count", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [count, 3]),
    ]
    names = {"cell": "cell_size"}
    attributes = {names.get(name, name): value for name, value in GRID.items()} | {"position_step": POSITION_STEP_M}
    voxels = helper.make_node(
        "UdxVoxelize", ["points", "count"], ["cell", "sums"], domain=DOMAIN, **attributes, **PLUGIN_ATTRIBUTES
    )
    scatter = helper.make_node(
        "UdxPillarScatter", ["features", "cell"], ["pillars"], domain=DOMAIN, num_cells=NOWHERE, **PLUGIN_ATTRIBUTES
    )
    outputs = [
        helper.make_tensor_value_info("cell", TensorProto.INT32, [count]),
        helper.make_tensor_value_info("sums", TensorProto.INT32, [NOWHERE, 4]),
        helper.make_tensor_value_info("pillars", TensorProto.FLOAT, [NOWHERE, 3]),
    ]
    graph = helper.make_graph([voxels, scatter], "pillars", inputs, outputs)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=function_protos(), ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def assert_session_agrees(session, points, features, valid):
    got = session.run(None, {"points": points, "count": np.array([valid], np.int32), "features": features})
    cell, sums = voxelized(points, valid=valid)
    np.testing.assert_array_equal(got[0], cell.numpy())
    np.testing.assert_array_equal(got[1], sums.numpy())
    pillars = pillar_scatter(torch.from_numpy(features), cell, NOWHERE)
    np.testing.assert_array_equal(got[2], pillars.numpy())
    return cell


def test_the_onnx_functions_give_the_same():
    rng = np.random.default_rng(0)
    points = rng.uniform(-4.5, 4.5, (50, 5)).astype(np.float32)
    points[::9, 0] = [np.nan, np.inf, -np.inf, -4.0, 3.5, 4.0]
    features = rng.random((50, 3)).astype(np.float32)
    cell = assert_session_agrees(pillars_session(50), points, features, valid=45)
    assert (cell < NOWHERE).sum() > 5


def test_no_point_of_a_crowded_cell_is_lost_between_threads():
    rng = np.random.default_rng(0)
    points = rng.uniform(0.0, 1.0, (60_000, 5)).astype(np.float32)  # four cells
    features = rng.random((60_000, 3)).astype(np.float32)
    session = pillars_session(60_000)
    for _ in range(10):
        assert_session_agrees(session, points, features, valid=60_000)
