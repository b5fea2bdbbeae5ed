"""What each backend does with a file is what it would do: plugins by name, segments and kernels in order."""

import onnx
import pytest

from tests.build.detectors import voxelizing_detector, write_detector
from tests.build.exported import exported_model, write_fp16, write_sealed
from udx.check.backends import Bodies, Parts, Plugins, Refused, readings
from udx.runtime.onnx_file import read_onnx

PILLARS = ("UdxVoxelCells", "UdxVoxelSums", "UdxPillarFeatures", "UdxPillarClear", "UdxPillarMax")


@pytest.fixture(scope="module")
def fusion(tmp_path_factory):
    return read_onnx(write_fp16(tmp_path_factory.mktemp("check") / "fusion.onnx", *exported_model("tiny", "fusion")))


def test_each_backend_reads_a_whole_detector_in_its_own_way(fusion):
    found = readings(fusion)
    custom = dict.fromkeys(PILLARS, 1) | {"UdxBevPool": 1}
    assert found["onnxruntime"].functions == found["onnxruntime-cuda"].functions == custom
    assert found["tensorrt"] == Plugins(plugins=custom, nodes=len(fusion.model.graph.node))
    parts = found["tensorrt-rtx"]
    names = ("bev_pool", "voxel_cells", "voxel_sums", "pillar_features", "pillar_clear", "pillar_max")
    assert sorted(parts.kernels) == sorted(f"{name}_kernel" for name in names)
    # Views are memory under another shape and in no segment; what two segments need is in both.
    assert len(parts.segments) >= 2 and sum(parts.segments.values()) > 0.8 * len(fusion.model.graph.node)


def test_function_bodies_are_counted_as_onnx_runtime_runs_them(tmp_path):
    file = read_onnx(write_detector(tmp_path / "lidar.onnx"))
    bodies = {function.name: len(function.node) for function in file.model.functions}
    found = readings(file)["onnxruntime"]
    assert found.operators == len(file.model.graph.node) - 2 + bodies["UdxVoxelCells"] + bodies["UdxVoxelSums"]


def test_only_on_the_cpu_are_halves_computed_in_fp32(fusion, tmp_path):
    found = readings(fusion)
    assert (found["onnxruntime"].in_fp32, found["onnxruntime-cuda"].in_fp32) == (True, False)
    assert "computes FP16 in FP32" in str(found["onnxruntime"])
    exact = readings(read_onnx(write_detector(tmp_path / "lidar.onnx")))["onnxruntime"]
    assert not exact.in_fp32 and "FP16" not in str(exact)


def test_dimensions_that_a_plan_fixes_are_told(tmp_path):
    import dataclasses

    model, manifest = exported_model("tiny", "lidar")
    manifest = dataclasses.replace(manifest, dynamic={"points": manifest.spec.lidar.max_points})
    dim = next(value for value in model.graph.input if value.name == "points").type.tensor_type.shape.dim[0]
    dim.dim_param = "points"
    del model.graph.value_info[:]
    found = readings(read_onnx(write_sealed(tmp_path / "open.onnx", model, manifest)))
    assert str(found["tensorrt-rtx"]).endswith("; points fixed at 2000")


@pytest.mark.parametrize(
    ("changes", "backend", "said"),
    [
        ({"aot": 0}, "tensorrt", "has aot 0, not 1: TensorRT would run its slow function body"),
        ({"plugin_namespace": "udy"}, "tensorrt", "'udy'"),
    ],
)
def test_a_backend_that_cannot_take_the_file_says_why_and_the_others_go_on(tmp_path, changes, backend, said):
    found = readings(read_onnx(write_detector(tmp_path / "odd.onnx", **changes)))
    assert isinstance(found[backend], Refused) and said in str(found[backend])
    assert isinstance(found["onnxruntime"], Bodies) and isinstance(found["tensorrt-rtx"], Parts)


def test_a_detector_without_udx_nodes_takes_no_plugin_and_one_segment(tmp_path):
    from tests.runtime.conftest import detector_model, manifest_of

    onnx.save(detector_model(manifest_of("cam")), tmp_path / "plain.onnx")
    found = readings(read_onnx(tmp_path / "plain.onnx"))
    assert str(found["tensorrt"]) == "builds one engine of 14 nodes, and takes no plugin"
    assert found["tensorrt-rtx"].kernels == () and len(found["tensorrt-rtx"].segments) == 1
    assert "udx node" not in str(found["onnxruntime"])


def test_weights_beside_the_file_are_cut_too(tmp_path):
    model = voxelizing_detector()
    onnx.save(model, tmp_path / "beside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=100)
    found = readings(read_onnx(tmp_path / "beside.onnx"))
    assert found["tensorrt-rtx"].kernels == ("voxel_cells_kernel", "voxel_sums_kernel")
