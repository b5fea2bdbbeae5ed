"""A portable file: standard operators, fixed shapes, the bits of the normal one, and udx reads it as its own."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.build.exported import MODALITIES, exported_model, frame_of, write_sealed
from udx.build.plugins import require_operators
from udx.calibration.job import require_full_precision
from udx.check.backends import Refused, readings
from udx.errors import UdxError
from udx.export import onnx_export
from udx.export.onnx_export import export_run
from udx.export.parity import values_of
from udx.export.portable import require_portable, to_portable
from udx.export.precision import to_fp16
from udx.manifest import Manifest
from udx.operators import DOMAIN
from udx.runtime.engine import open_engine
from udx.runtime.onnx_file import read_onnx

OUTPUTS = ("boxes", "scores", "labels")


def in_precision(modality, precision):
    model, manifest = exported_model("tiny", modality)
    return (to_fp16(model)[0] if precision == "fp16" else model), manifest


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_portable_model_gives_the_same_bits(modality, precision):
    model, manifest = in_precision(modality, precision)
    before = model.SerializeToString(deterministic=True)
    portable = to_portable(model)
    assert model.SerializeToString(deterministic=True) == before
    for seed, turn in ((0, 0.0), (1, 0.4)):
        frame = frame_of(manifest, seed, turn)
        one, two = (values_of(either, OUTPUTS, frame) for either in (model, portable))
        assert all(np.array_equal(one[name], two[name]) for name in OUTPUTS)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_it_holds_standard_operators_in_fixed_shapes(modality, precision):
    portable = to_portable(in_precision(modality, precision)[0])
    onnx.checker.check_model(portable, full_check=True)
    assert not portable.functions
    assert [item.domain for item in portable.opset_import] == [""]
    op_types = {node.op_type for node in portable.graph.node}
    control = {"If", "Loop", "Scan"}
    of_shapes = {"Constant", "ConstantOfShape", "CumSum", "NonZero", "Range", "Shape", "Size", "Unique"}
    assert not op_types & (control | of_shapes)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in portable.graph.value_info}
    for name in (name for node in portable.graph.node for name in node.output):
        if name not in OUTPUTS:
            assert all(length.HasField("dim_value") for length in shapes[name])
    names = [node.name for node in portable.graph.node]
    assert all(names) and len(set(names)) == len(names)


def test_what_is_not_portable_is_refused():
    def model_of(op_type, domain, shape):
        given, got = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
        node = helper.make_node(op_type, ["x"], ["y"], domain=domain)
        return helper.make_model(helper.make_graph([node], "g", [given], [got]))

    require_portable(model_of("Relu", "", [2]))
    with pytest.raises(UdxError, match="still holds udx::UdxBevPool; leave --portable out"):
        require_portable(model_of("UdxBevPool", DOMAIN, [2]))
    with pytest.raises(UdxError, match="tensor x of the export has no fixed shape"):
        require_portable(model_of("Relu", "", ["n"]))


@pytest.fixture(scope="module")
def portable_file(tmp_path_factory):
    model, manifest = exported_model("tiny", "cam")
    path = tmp_path_factory.mktemp("portable") / "cam.onnx"
    return write_sealed(path, to_portable(model), dataclasses.replace(manifest, portable=True))


def test_udx_runs_it_and_says_what_it_is(portable_file):
    file = read_onnx(portable_file)
    assert file.manifest.portable
    with open_engine(portable_file) as runner:
        assert len(runner.detect(frame_of(file.manifest))) == file.manifest.max_boxes
    found = readings(file)
    assert str(found["onnxruntime"]).startswith("runs the file as it is: ")
    assert all(isinstance(found[name], Refused) for name in ("tensorrt", "tensorrt-rtx"))


def test_what_needs_udx_nodes_refuses_it_and_names_the_normal_export(portable_file, tmp_path):
    file = read_onnx(portable_file)
    with pytest.raises(UdxError, match="build the file that udx export writes without --portable"):
        require_operators(file.manifest, file.path)
    with pytest.raises(UdxError, match="give the file that udx export writes without --portable"):
        require_full_precision(file)


def test_its_manifest_holds_together():
    _, manifest = exported_model("tiny", "lidar")
    with pytest.raises(ValueError, match="of a portable file are open"):
        dataclasses.replace(manifest, portable=True, dynamic={"points": manifest.spec.lidar.max_points})
    said = dataclasses.replace(manifest, portable=True)
    assert Manifest.from_json(said.to_json(), "it").portable


def test_the_command_writes_it(runs, tmp_path):
    for precision in ("fp32", "fp16"):
        made = export_run(runs["lidar"], tmp_path / f"{precision}.onnx", precision=precision, portable=True)
        manifest = read_onnx(made.path).manifest
        assert manifest.portable and manifest.precision.precision == precision
        assert made.summary().split(": ")[1].startswith("portable lidar detector")
    assert onnx_export.default_file("lidar", "fp16", portable=True).name == "student-lidar-fp16-portable.onnx"
    with pytest.raises(UdxError, match="--dynamic points opens one"):
        export_run(runs["lidar"], tmp_path / "o.onnx", portable=True, dynamic=["points"])


def test_a_portable_file_that_differs_from_its_fp16_graph_is_not_written(runs, tmp_path, monkeypatch):
    def other(model):
        wrong = to_portable(model)
        scale = next(tensor for tensor in wrong.graph.initializer if tensor.name.endswith("regression.bias"))
        scale.raw_data = (np.ones(int(np.prod(scale.dims)), np.float16) * 3).tobytes()
        return wrong

    monkeypatch.setattr(onnx_export, "to_portable", other)
    with pytest.raises(UdxError, match="the export differs from the FP16 graph by"):
        export_run(runs["lidar"], tmp_path / "o.onnx", precision="fp16", portable=True)
    assert not list(tmp_path.iterdir())


def test_twins_are_twins_in_portable_files_too(runs, tmp_path):
    made = [export_run(runs[name], tmp_path / f"{name}.onnx", portable=True) for name in ("cam", "distilled")]
    assert made[0].manifest.graph == made[1].manifest.graph
