"""The ONNX functions in stock ONNX Runtime against the torch operators, exported as a detector exports them."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings

from tests.ops.test_bev_pool import random_case
from tests.ops.test_voxelize import AWKWARD, GRID, clouds
from tests.tiny import FRUSTUM, ring_of_cameras
from tests.tiny import GRID as BEV_GRID
from udx.export.translate import translation_table
from udx.geometry import pooling_plan
from udx.operators import OPSET, PLUGIN_ATTRIBUTES, BevPool, TensorType
from udx.ops import bev_pool, dropped_of, pillar_features, pillar_scatter, voxelize
from udx.ops.onnx_functions import function_protos
from udx.runtime.numpy_kernels import run_kernel


class Pool(torch.nn.Module):
    def forward(self, depth, context, index, offsets):
        return bev_pool(depth, context, index, offsets)


class Pillars(torch.nn.Module):
    """Points to cells, sums, features and map; a network between the last two may be of another precision."""

    def __init__(self, grid, dtype=torch.float32):
        super().__init__()
        self.grid, self.dtype = grid, dtype

    def forward(self, points, num_points):
        cell, sums = voxelize(points, num_points, *self.grid.scalars)
        features = pillar_features(points, cell, sums, *self.grid.scalars)
        cells = len(points) * self.grid.num_cells
        return cell, sums, features, pillar_scatter(features.to(self.dtype).relu(), cell, cells)


def export(module, *tensors):
    """Export with the functions appended; both the full check and strict inference of shapes must pass."""
    names = [f"input{at}" for at in range(len(tensors))]
    program = torch.onnx.export(
        module.eval(),
        tensors,
        dynamo=True,
        opset_version=OPSET,
        optimize=False,
        input_names=names,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    model = program.model_proto
    model.functions.extend(function_protos())
    onnx.checker.check_model(model, full_check=True)
    return model


def session(model):
    """Call a model in stock ONNX Runtime, two threads, with tensors in the order of its inputs."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in opened.get_inputs()]
    return lambda *given: opened.run(None, {name: given[at].numpy() for at, name in enumerate(names)})


def shapes_found(exported):
    """Output shapes that strict inference finds where nothing but the inputs is declared."""
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return [tuple(dim.dim_value for dim in output.type.tensor_type.shape.dim) for output in inferred.graph.output]


def frame(*, samples=2, capacity=40, seed=0):
    points = torch.rand(samples, capacity, 5, generator=torch.Generator().manual_seed(seed)) * 8 - 4
    return points, torch.full((samples, 1), capacity).int()


SINGLE = (torch.float32, torch.float32)


@pytest.fixture(scope="module")
def pillars_model():
    return export(Pillars(GRID), *frame())


@pytest.fixture(scope="module")
def pool_model():
    return export(Pool(), *random_case(0, dtypes=SINGLE))


@pytest.fixture(scope="module")
def pillar_sessions(pillars_model):
    """A session for each of the grids of ``clouds``: two samples of 40 points with five features."""
    return {GRID: session(pillars_model), AWKWARD: session(export(Pillars(AWKWARD), *frame()))}


def test_every_kernel_is_one_node_with_the_plugin_s_attributes(pillars_model, pool_model):
    nodes = [node for model in (pillars_model, pool_model) for node in model.graph.node if node.domain == "udx"]
    assert {node.op_type for node in nodes} == {function.name for function in function_protos()}
    for node in nodes:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        plugin = {name: attributes[name] for name in PLUGIN_ATTRIBUTES}
        assert plugin == {"plugin_namespace": b"udx", "plugin_version": b"1", "aot": 1}


def test_bodies_are_of_operators_that_every_reader_has():
    for body in function_protos():
        assert not {"Loop", "Scan", "If", "NonZero", "Unique", "GridSample"} & {node.op_type for node in body.node}
        assert all(node.domain == "" for node in body.node)


def test_constants_in_bodies_are_tensors():
    """GraphSurgeon reads ``value_float`` as a double, and others read ``value`` alone."""
    for body in function_protos():
        readers = {name: node for node in body.node for name in node.input}
        for node in (node for node in body.node if node.op_type == "Constant"):
            (attribute,) = node.attribute
            if attribute.ref_attr_name:
                assert readers[node.output[0]].op_type == "Cast"
            else:
                assert attribute.name == "value"


def test_strict_inference_finds_every_shape(pillars_model, pool_model):
    assert shapes_found(pillars_model) == [(80,), (129, 4), (80, 10), (128, 10)]
    assert shapes_found(pool_model) == [(2, 5, 3)]


@settings(max_examples=30)
@given(cloud=clouds())
def test_pillars_have_the_same_bits(pillar_sessions, cloud):
    grid, points, counts = cloud
    held, num_points = torch.zeros(2, 40, 5), torch.zeros(2, 1).int()
    held[: len(points), : points.shape[1], : points.shape[2]] = points[:2, :, :5]
    num_points[: len(points)] = counts[:2]
    for got, expected in zip(pillar_sessions[grid](held, num_points), Pillars(grid)(held, num_points), strict=True):
        assert np.array_equal(got, expected.numpy())


def test_points_that_a_buffer_has_no_room_for_are_counted(pillar_sessions):
    points, num_points = frame()[0], torch.tensor([[50], [-3]]).int()
    _, sums, _, _ = pillar_sessions[GRID](points, num_points)
    dropped = dropped_of(torch.from_numpy(sums))
    assert dropped == dropped_of(voxelize(points, num_points, *GRID.scalars)[1])
    assert dropped.beyond_capacity == 10
    assert sums[:, 3].sum() == 50


def test_a_half_precision_network_gets_a_half_precision_map(pillars_model):
    model = export(Pillars(GRID, torch.float16), *frame())
    points, count = frame(seed=1)
    *_, got = session(model)(points, count)
    assert got.dtype == np.float16
    assert np.array_equal(got, Pillars(GRID, torch.float16)(points, count)[-1].numpy())
    # In FP32 no cast is left behind the map.
    assert not [node for node in pillars_model.graph.node if "Cast" in node.op_type]


def test_no_point_of_a_crowded_cell_is_lost_between_threads():
    points, count = torch.rand(1, 60_000, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([[60_000]]).int()
    crowded = session(export(Pillars(GRID), points, count))  # four cells
    expected = [tensor.numpy() for tensor in Pillars(GRID)(points, count)]
    for _ in range(10):
        assert all(map(np.array_equal, crowded(points, count), expected))


@pytest.mark.parametrize(
    ("dtypes", "accuracy"),
    [(SINGLE, 1e-6), ((torch.float16,) * 2, 2e-3), ((torch.float32, torch.float16), 2e-3)],
)
def test_pooling_gives_the_same_for_every_plan(dtypes, accuracy):
    pool = session(export(Pool(), *random_case(0, dtypes=dtypes)))
    for seed in range(5):
        case = random_case(seed, dtypes=dtypes)
        (pooled,) = pool(*case)
        expected = bev_pool(*case)
        assert pooled.dtype == expected.numpy().dtype
        np.testing.assert_allclose(pooled, expected, atol=accuracy)


@pytest.mark.parametrize("seed", range(6))
def test_pooling_has_the_bits_of_the_numpy_kernel(seed):
    """Cells of no, few, exactly sixteen and many points; what is not finite stays in its own cells."""
    sizes = np.random.default_rng(seed).permutation([0, 0, 1, 15, 16, 17, 31, 32, 33, 100])
    depth, context, index, _ = random_case(seed, bins=36, cells=1, dtypes=SINGLE)
    offsets = torch.from_numpy(np.cumsum([0, *sizes], dtype=np.int32)).expand(2, -1).contiguous()
    context[0, 0, 0, 0, 0], context[1, 1, 1, 1, 1] = torch.inf, torch.nan
    (pooled,) = session(export(Pool(), depth, context, index, offsets))(depth, context, index, offsets)
    expected = np.full_like(pooled, -77)
    given = [tensor.numpy() for tensor in (depth, context, index, offsets)]
    launch = BevPool().launch([TensorType(tensor.dtype.name, tensor.shape) for tensor in given])
    run_kernel(launch, given, [expected])
    np.testing.assert_array_equal(pooled, expected)
    finite = np.isfinite(pooled)
    assert not finite.all()
    np.testing.assert_array_equal(finite, np.isfinite(bev_pool(depth, context, index, offsets)))


def test_one_session_serves_two_rigs():
    plans = [pooling_plan(ring_of_cameras(turn_rad), FRUSTUM, BEV_GRID, (-3.0, 5.0)) for turn_rad in (0.0, 0.3)]
    tensors = [(torch.from_numpy(its.point_index_P)[None], torch.from_numpy(its.cell_offsets)[None]) for its in plans]
    depth, context = torch.rand(1, 6, 8, 2, 4).softmax(dim=2), torch.randn(1, 6, 2, 4, 5)
    pool = session(export(Pool(), depth, context, *tensors[0]))
    pooled = [pool(depth, context, *plan)[0] for plan in tensors]
    for got, plan in zip(pooled, tensors, strict=True):
        np.testing.assert_allclose(got, bev_pool(depth, context, *plan), atol=1e-6)
    assert np.abs(pooled[0] - pooled[1]).max() > 0.1
