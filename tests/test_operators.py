"""The deployed launches are those of the kernels' own launchers, and the nodes are those of the ONNX functions."""

from dataclasses import dataclass, field
from typing import Any

import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from udx.errors import UdxError
from udx.operators import (
    DOMAIN,
    OPERATORS,
    OPSET,
    PLUGIN_ATTRIBUTES,
    BevPool,
    PillarClear,
    PillarFeatures,
    PillarMax,
    PoolTiling,
    TensorType,
    VoxelCells,
    VoxelSums,
    launches_of_graph,
)
from udx.ops.onnx_functions import function_protos
from udx.ops.pillar_grid import PillarGrid

triton = pytest.importorskip("triton")

GRID = PillarGrid(-4.0, -1.0, 0.5, 4, 16, -2.0, 3.0)
PLACE = (GRID.x_min, GRID.y_min, GRID.cell)


@dataclass
class Recorder:
    """Stands for a kernel and keeps how it was launched."""

    arg_names: list[str]
    grid: tuple[int, ...] = ()
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.grid, self.args, self.options = grid, args, options

        return launch


def recorded(monkeypatch, module, *names):
    recorders = {}
    for name in names:
        recorders[name] = Recorder(getattr(module, name).arg_names)
        monkeypatch.setattr(module, name, recorders[name])
    return recorders


def types_of(tensors):
    return [TensorType(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for tensor in tensors]


def assert_same_launch(operator, recorder):
    """Same arguments in the same order, same constants, same grid; the outputs fit what was allocated."""
    inputs = recorder.args[: len(operator.inputs)]
    launch = operator.launch(types_of(inputs))
    shapes = {name: tuple(tensor.shape) for name, tensor in zip(operator.inputs, inputs, strict=True)}
    arguments = [item.name for item in (*launch.inputs, *launch.scalars, *launch.outputs)]
    assert recorder.arg_names == arguments + list(launch.constants)
    assert (*recorder.grid, 1, 1)[:3] == launch.grid_for(shapes)
    options = {"num_warps": 4} | recorder.options
    assert options.pop("num_warps") == launch.num_warps
    assert options.pop("maxnreg", None) == launch.max_registers
    assert options.pop("enable_fp_fusion") is False  # as in all that is compiled ahead of time
    if "ACCUMULATE" in options:
        assert options["ACCUMULATE"] == getattr(triton.language, launch.constants["ACCUMULATE"])
        options["ACCUMULATE"] = launch.constants["ACCUMULATE"]
    assert options == launch.constants
    scalars = recorder.args[len(inputs) : len(inputs) + len(launch.scalars)]
    assert scalars == launch.scalars_for(shapes)
    outputs = recorder.args[len(inputs) + len(launch.scalars) :]
    assert types_of(outputs) == [
        TensorType(output.dtype, shape)
        for output, shape in zip(launch.outputs, launch.outputs_for(shapes), strict=True)
    ]
    for output, tensor in zip(launch.outputs, outputs, strict=True):
        if output.aliases is not None:
            assert tensor is inputs[operator.inputs.index(output.aliases)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [5, 80, 256])
@pytest.mark.parametrize("cells", [9, 10, 180 * 180])
def test_bev_pool_is_launched_alike(monkeypatch, dtype, channels, cells):
    from udx.ops.kernels import bev_pool as kernels

    found = recorded(monkeypatch, kernels, "bev_pool_kernel")
    depth = torch.zeros(2, 6, 3, 2, 4, dtype=dtype)
    context = torch.zeros(2, 6, 2, 4, channels, dtype=dtype)
    kernels.pool(depth, context, torch.zeros(2, 100).int(), torch.zeros(2, cells + 1).int())
    assert_same_launch(BevPool(), found["bev_pool_kernel"])


@pytest.mark.parametrize(
    ("cells", "channels", "value_bytes", "expected"),
    [
        # 80 channels are 20 vectors of 16 bytes; 12 cells at a time fill 8 of 256 lanes short of the whole.
        (180 * 180, 80, 4, PoolTiling(columns=180, tile_rows=8, tile_columns=8, vector=4, lanes=20, items=256)),
        (180 * 180, 80, 2, PoolTiling(columns=180, tile_rows=8, tile_columns=8, vector=8, lanes=10, items=128)),
        (180 * 180, 256, 4, PoolTiling(columns=180, tile_rows=8, tile_columns=8, vector=4, lanes=32, items=256)),
        (32 * 32, 130, 4, PoolTiling(columns=32, tile_rows=4, tile_columns=4, vector=2, lanes=22, items=256)),
        # 200 rows and 100 columns are no square: runs of 64 cells.
        (20000, 64, 2, PoolTiling(columns=64, tile_rows=1, tile_columns=64, vector=8, lanes=8, items=64)),
        (-1, 1, 4, PoolTiling(columns=64, tile_rows=1, tile_columns=64, vector=1, lanes=1, items=32)),
    ],
)
def test_the_tiling_of_bev_pool_by_hand(cells, channels, value_bytes, expected):
    assert PoolTiling.of(cells, channels, value_bytes) == expected


@given(cells=st.integers(1, 60_000), channels=st.integers(1, 600), value_bytes=st.sampled_from([2, 4, 8]))
def test_the_tiles_of_bev_pool_cover_every_cell_and_channel(cells, channels, value_bytes):
    tiling = PoolTiling.of(cells, channels, value_bytes)
    rows = -(-cells // tiling.columns)
    across, down = -(-tiling.columns // tiling.tile_columns), -(-rows // tiling.tile_rows)
    assert tiling.programs(cells) == 4 * across * down
    block = tiling.lanes * tiling.vector
    assert 0 <= tiling.channel_blocks(channels) * block - channels < block
    assert channels % tiling.vector == 0 and tiling.vector * value_bytes <= 16
    assert tiling.items == 32 * tiling.num_warps and tiling.num_warps in (1, 2, 4, 8)


@pytest.mark.parametrize("capacity", [3, 700])
def test_voxelize_is_launched_alike(monkeypatch, capacity):
    from udx.ops.kernels import voxelize as kernels

    found = recorded(monkeypatch, kernels, "voxel_cells_kernel", "voxel_sums_kernel")
    kernels.voxelize(torch.zeros(2, capacity, 5), torch.zeros(2, 1).int(), GRID)
    cells = VoxelCells(*PLACE, GRID.rows, GRID.columns, GRID.z_min, GRID.z_max)
    assert_same_launch(cells, found["voxel_cells_kernel"])
    assert_same_launch(VoxelSums(*PLACE, GRID.z_middle), found["voxel_sums_kernel"])


def test_pillar_features_are_launched_alike(monkeypatch):
    from udx.ops.kernels import pillar_features as kernels

    found = recorded(monkeypatch, kernels, "pillar_features_kernel")
    kernels.pillar_features(torch.zeros(2, 300, 5), torch.zeros(600).int(), torch.zeros(129, 4).int(), GRID)
    assert_same_launch(PillarFeatures(*PLACE, GRID.z_middle), found["pillar_features_kernel"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pillar_scatter_is_launched_alike(monkeypatch, dtype):
    from udx.ops.kernels import pillar_scatter as kernels

    found = recorded(monkeypatch, kernels, "pillar_clear_kernel", "pillar_max_kernel")
    kernels.scatter(torch.zeros(600, 40, dtype=dtype), torch.zeros(600).int(), 128)
    assert_same_launch(PillarClear(128), found["pillar_clear_kernel"])
    assert_same_launch(PillarMax(), found["pillar_max_kernel"])


def test_there_is_an_operator_for_every_onnx_function():
    for function, kind in zip(function_protos(), OPERATORS, strict=True):
        assert function.name == kind.name
        assert tuple(function.input) == kind.inputs
        assert sorted([*function.attribute, *(item.name for item in function.attribute_proto)]) == sorted(
            kind.attributes()
        )
        assert len(function.output) == len(kind.types[0]) - len(kind.inputs)


def test_types_that_no_kernel_has_are_refused():
    given = [TensorType(dtype, (1, 1, 1, 1, 1)) for dtype in ("float64", "float64", "int32", "int32")]
    with pytest.raises(UdxError, match=r"takes float32, float32, int32, int32 or .*, not float64, float64"):
        BevPool().launch(given)


def test_an_unknown_dimension_that_is_compiled_in_is_refused():
    with pytest.raises(UdxError, match="dimension 1 of UdxPillarMax's input features must be fixed"):
        PillarMax().launch([TensorType("float32", (9, -1)), TensorType("int32", (9,)), TensorType("float32", (4, -1))])


def pillar_model(capacity: Any = 300, **changes: Any) -> onnx.ModelProto:
    """Points to sums, in two nodes."""
    place = {"x_min": -4.0, "y_min": -1.0, "cell_size": 0.5}
    heights = {"rows": 4, "columns": 16, "z_min": -2.0, "z_max": 3.0}
    nodes = [
        helper.make_node(
            "UdxVoxelCells",
            ["points", "count"],
            ["cell", "cleared"],
            domain=DOMAIN,
            **(place | heights | changes),
            **PLUGIN_ATTRIBUTES,
        ),
        helper.make_node(
            "UdxVoxelSums",
            ["points", "count", "cell", "cleared"],
            ["sums"],
            domain=DOMAIN,
            **place,
            z_middle=0.5,
            **PLUGIN_ATTRIBUTES,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "pillars",
        [
            helper.make_tensor_value_info("points", TensorProto.FLOAT, [2, capacity, 5]),
            helper.make_tensor_value_info("count", TensorProto.INT32, [2, 1]),
        ],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, [129, 4])],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=function_protos(), ir_version=10)
    onnx.checker.check_model(model)
    return model


def test_the_launches_of_a_graph_are_those_of_its_nodes():
    points, count = TensorType("float32", (2, 300, 5)), TensorType("int32", (2, 1))
    cell, cleared = TensorType("int32", (600,)), TensorType("int32", (129, 4))
    expected = [
        VoxelCells(*PLACE, 4, 16, -2.0, 3.0).launch([points, count]),
        VoxelSums(*PLACE, 0.5).launch([points, count, cell, cleared]),
    ]
    assert launches_of_graph(pillar_model()) == expected


def test_a_graph_without_fixed_shapes_is_refused():
    with pytest.raises(UdxError, match="must be fixed"):
        launches_of_graph(pillar_model(capacity="points"))


def test_a_node_without_an_attribute_is_refused():
    model = pillar_model()
    attributes = model.graph.node[0].attribute
    attributes.remove(next(item for item in attributes if item.name == "x_min"))
    with pytest.raises(UdxError, match=r"UdxVoxelCells\) has no float x_min"):
        launches_of_graph(model)


def test_an_unknown_node_is_refused():
    model = pillar_model()
    model.graph.node[0].op_type = "UdxVoxelise"
    with pytest.raises(UdxError, match="UdxVoxelise, which this udx does not know"):
        launches_of_graph(model)
