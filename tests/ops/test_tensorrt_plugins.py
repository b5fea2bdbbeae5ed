"""The plugins: what they answer in plain Python, and what TensorRT's own Python makes of their registrations."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from tests.ops import tensorrt_double
from tests.ops.tensorrt_double import DataType
from udx.errors import UdxError
from udx.launch import CompiledKernel, KernelFile
from udx.operators import OPERATORS, BevPool, PillarMax, TensorType, VoxelCells
from udx.ops.aot import CompiledImage
from udx.ops.tensorrt_plugins import combination, launch_parameters, portable, register_plugins

PLACE = {"x_min": -54.0, "y_min": -54.0, "cell_size": 0.3}
HEIGHTS = {"rows": 360, "columns": 360, "z_min": -3.0, "z_max": 5.0}
FLOAT, HALF, BF16, INT = DataType.FLOAT, DataType.HALF, DataType.BF16, DataType.INT32
POINTS, NUMBER, CELL, SUMS = (FLOAT, (2, 1000, 5)), (INT, (2, 1)), (INT, (2000,)), (INT, (259201, 4))
PLANS = (INT, (2, 5000)), (INT, (2, 16385))


def image_of(launch, shared_bytes=1024):
    """What a compiler would give, for tests that do not look into the PTX."""
    file = KernelFile(name="x", sha256="x")
    kernel = CompiledKernel(
        launch=launch,
        entry=launch.kernel,
        arch=80,
        target="sm_80",
        ptx_version="7.0",
        block=(128, 1, 1),
        shared_bytes=shared_bytes,
        registers=32,
        spill_bytes=0,
        global_scratch_bytes=0,
        profile_scratch_bytes=0,
        ptx=file,
        cubin=file,
    )
    return CompiledImage(kernel, f"// {launch.constants}".encode(), b"")


# -- plain Python ------------------------------------------------------------------------------------------------------


def test_the_launch_of_bev_pool_by_hand():
    tensors = {
        "depth": TensorType("float16", (2, 6, 3, 16, 44)),
        "context": TensorType("float16", (2, 6, 16, 44, 200)),
        "point_index": TensorType("int32", (2, 5000)),
        "cell_offsets": TensorType("int32", (2, 16385)),
    }
    launch = BevPool().launch(list(tensors.values()))
    parameters = launch_parameters(image_of(launch).kernel, {name: tensor.shape for name, tensor in tensors.items()})
    assert parameters.grid == (4 * 16 * 16, 1, 2)  # four programs for each tile of 8 × 8 cells
    assert parameters.block == (128, 1, 1)
    assert parameters.scalars == (16384, 5000)


def test_more_shared_memory_than_tensorrt_grants_is_a_bug():
    launch = PillarMax().launch(
        [TensorType("float32", (9, 8)), TensorType("int32", (9,)), TensorType("float32", (4, 8))]
    )
    with pytest.raises(AssertionError, match="pillar_max_kernel needs 65536 bytes"):
        launch_parameters(image_of(launch, shared_bytes=65536).kernel, {"features": (9, 8), "cleared": (4, 8)})


def test_combinations_in_tensorrts_grammar():
    assert combination(VoxelCells) == "FP32, INT32, INT32, INT32"
    assert combination(PillarMax) == "FP32|FP16|BF16, INT32, FP32, FP32"


def test_the_portable_ptx_is_for_ampere():
    pytest.importorskip("triton")
    image = portable(
        PillarMax().launch([TensorType("float16", (9, 8)), TensorType("int32", (9,)), TensorType("float32", (4, 8))])
    )
    assert image.kernel.target == "sm_80"
    assert b".target sm_80\n" in image.ptx


def test_without_tensorrt_there_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(UdxError, match=r"TensorRT is not installed .*; pip install tensorrt"):
        register_plugins()


# -- TensorRT's Python -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensorrt():
    """``build(name, attributes, inputs)`` with all plugins registered; their compiler only looks at the launch."""
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None or spec.origin is None:
        pytest.skip("TensorRT's Python is not installed: pip install tensorrt-cu13-bindings")
    launches = []

    def compiler(launch):
        launches.append(launch)
        return image_of(launch)

    with tensorrt_double.installed(Path(spec.origin).parent) as (module, registry):
        register_plugins(compiler)
        register_plugins(compiler)  # changes nothing

        def build(name, attributes, *inputs):
            launches.clear()
            built = tensorrt_double.build(module, registry, name, attributes, inputs)
            (launch,) = launches
            return built, launch

        yield build


def test_bev_pool_in_a_network(tensorrt):
    depth, context = (FLOAT, (2, 6, 3, 16, 44)), (HALF, (2, 6, 16, 44, 200))
    built, launch = tensorrt("UdxBevPool", {}, depth, context, *PLANS)
    assert (built.output_types, built.output_shapes, built.aliased) == ([HALF], [(2, 16384, 200)], [-1])
    assert (built.grid, built.block, built.shared_bytes) == ((1024, 1, 2), (128, 1, 1), 1024)
    assert built.scalars == [16384, 5000]
    assert built.entry == "bev_pool_kernel"
    assert launch.constants["BINS"] == 3 and launch.constants["CHANNELS"] == 200
    kinds = (FLOAT, HALF, BF16)
    assert built.combinations == {(one, other, INT, INT, other) for one in kinds for other in kinds}


def test_voxelization_in_a_network(tensorrt):
    cells, launch = tensorrt("UdxVoxelCells", PLACE | HEIGHTS, POINTS, NUMBER)
    assert (cells.output_types, cells.output_shapes) == ([INT, INT], [(2000,), (259201, 4)])
    assert (cells.aliased, cells.grid, cells.scalars) == ([-1, -1], (1013, 1, 1), [2000, 259200])
    assert cells.combinations == {(FLOAT, INT, INT, INT)}
    assert launch.constants["ROWS"] == 360 and launch.constants["CELL"] == pytest.approx(0.3, abs=1e-7)
    sums, launch = tensorrt("UdxVoxelSums", PLACE | {"z_middle": 1.0}, POINTS, NUMBER, CELL, SUMS)
    assert (sums.output_types, sums.output_shapes, sums.aliased) == ([INT], [(259201, 4)], [3])
    assert (sums.grid, sums.scalars) == ((8, 1, 1), [2000, 259200, 2])
    assert launch.constants["Z_MIDDLE"] == 1.0 and launch.constants["CAPACITY"] == 1000
    described, _ = tensorrt("UdxPillarFeatures", PLACE | {"z_middle": 1.0}, POINTS, CELL, SUMS)
    assert (described.output_types, described.output_shapes) == ([FLOAT], [(2000, 10)])
    assert (described.aliased, described.grid, described.scalars) == ([-1], (16, 1, 1), [2000, 259200])


@pytest.mark.parametrize("kind", [FLOAT, HALF, BF16])
def test_pillars_in_a_network(tensorrt, kind):
    features, cleared = (kind, (2000, 64)), (FLOAT, (259200, 64))
    clear, _ = tensorrt("UdxPillarClear", {"num_cells": 259200}, features)
    assert (clear.output_types, clear.output_shapes, clear.aliased) == ([FLOAT], [(259200, 64)], [-1])
    assert (clear.grid, clear.scalars) == ((16200, 1, 1), [16588800])
    raised, launch = tensorrt("UdxPillarMax", {}, features, CELL, cleared)
    assert (raised.output_types, raised.output_shapes, raised.aliased) == ([FLOAT], [(259200, 64)], [2])
    assert (raised.grid, raised.scalars) == ((63, 1, 1), [2000, 259200])
    assert launch.inputs[0].dtype == {FLOAT: "float32", HALF: "float16", BF16: "bfloat16"}[kind]


def test_the_constants_of_a_plugin_reach_its_ptx(tensorrt):
    built, launch = tensorrt("UdxPillarMax", {}, (FLOAT, (2000, 48)), CELL, (FLOAT, (100, 48)))
    assert re.search(r"'CHANNELS': 48\b", built.ptx)
    assert built.ptx == f"// {launch.constants}"


def test_a_type_without_a_kernel_is_refused(tensorrt):
    with pytest.raises(UdxError, match=r"UdxPillarMax takes .*; cast the node's inputs"):
        tensorrt("UdxPillarMax", {}, (DataType.INT8, (2000, 64)), CELL, (FLOAT, (100, 64)))


def test_every_operator_is_a_plugin(tensorrt):
    import tensorrt.plugin as trtp

    for kind in OPERATORS:
        assert hasattr(trtp.op.udx, kind.name)
