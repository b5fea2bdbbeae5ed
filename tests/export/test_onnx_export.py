"""The exported file is the student and nothing but the student, in stock ONNX Runtime, for every calibration."""

import dataclasses
from typing import get_args

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from tests.tiny import ring_of_cameras
from udx.data.frame import Annotations, Sample
from udx.data.inputs import input_shapes, inputs_of
from udx.data.load import load_sample
from udx.data.spec import Modality
from udx.errors import UdxError
from udx.export import onnx_export
from udx.export.onnx_export import default_file, detections_of, export_run, find_run
from udx.export.parity import Parity, agreement, compare
from udx.manifest import METADATA_KEY, Manifest
from udx.operators import DOMAIN, PLUGIN_ATTRIBUTES
from udx.runtime.engine import open_engine
from udx.runtime.frames import tensors_of
from udx.runtime.graph import differences
from udx.runtime.identity import identify
from udx.train.checkpoint import load_detector

PILLARS = {"UdxVoxelCells", "UdxVoxelSums", "UdxPillarFeatures", "UdxPillarClear", "UdxPillarMax"}
OPERATORS = {"cam": {"UdxBevPool"}, "lidar": PILLARS, "fusion": {"UdxBevPool", *PILLARS}}


@pytest.mark.parametrize("name", ["cam", "lidar", "fusion", "distilled"])
def test_stock_onnx_runtime_agrees_with_torch_on_real_frames(engines, runs, keyframes, name):
    detector, _ = load_detector(runs[name].checkpoint)
    spec = detector.config.spec
    with open_engine(engines[name].path) as runner:
        for keyframe in keyframes:
            tensors = inputs_of(load_sample(keyframe, spec), spec)
            parity = compare(detections_of(detector, tensors), runner.detect(tensors))
            assert parity.largest < 1e-3
            assert parity.boxes_compared > 10


@pytest.mark.parametrize("name", ["cam", "lidar", "fusion", "distilled"])
def test_the_file_passes_the_checker_and_carries_its_manifest(engines, runs, name):
    model = onnx.load(engines[name].path)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    manifest = Manifest.from_json({item.key: item.value for item in model.metadata_props}[METADATA_KEY], name)
    assert manifest.config["detector"]["low_channels"] == 8
    assert (manifest.teacher is not None) == (name == "distilled")
    declared = {value.name: value.type.tensor_type for value in model.graph.input}
    for tensor, (shape, dtype) in input_shapes(manifest.spec).items():
        assert tuple(item.dim_value for item in declared[tensor].shape.dim) == shape
        assert onnx.helper.tensor_dtype_to_np_dtype(declared[tensor].elem_type) == np.dtype(dtype)


@pytest.mark.parametrize("name", ["cam", "lidar", "fusion"])
def test_custom_nodes_have_bodies_and_the_plugins_attributes(engines, name):
    model = onnx.load(engines[name].path)
    custom = [node for node in model.graph.node if node.domain == DOMAIN]
    assert {node.op_type for node in custom} == OPERATORS[name] == {body.name for body in model.functions}
    for node in custom:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        assert attributes["plugin_namespace"] == DOMAIN.encode()
        assert attributes["plugin_version"] == b"1"
        assert attributes["aot"] == PLUGIN_ATTRIBUTES["aot"] == 1


@pytest.mark.parametrize("name", ["cam", "lidar", "fusion"])
def test_an_index_is_divided_by_one_node(engines, name):
    """Rounding down takes eight, among them Equal of bools, which several programs do not read."""
    histogram = engines[name].manifest.graph.op_histogram
    assert not {"And", "Xor", "Or", "Not", "Sign", "Floor"} & set(histogram)
    assert histogram["Equal"] == 1  # a heatmap's peaks
    assert histogram["Mod"] == 2
    assert histogram["Div"] == 3 + (name != "lidar")  # two of indices; of a heading's sine and cosine; of pixels


def test_distilled_and_undistilled_students_are_one_structure(engines):
    one, other = (identify(engines[name].path) for name in ("cam", "distilled"))
    assert differences(one.structure, other.structure) == ()
    assert one.manifest.graph == other.manifest.graph == one.structure.facts
    assert (one.manifest.teacher, other.manifest.teacher["modality"]) == (None, "fusion")
    assert engines["cam"].manifest.graph.sha256 != engines["lidar"].manifest.graph.sha256


def test_the_manifest_tells_what_the_graph_costs(engines):
    facts = engines["cam"].manifest.graph
    model = onnx.load(engines["cam"].path)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    assert facts.parameter_bytes == sum(4 * int(np.prod(tensor.dims)) for tensor in weights)
    assert facts.op_histogram["udx::UdxBevPool"] == 1
    assert sum(facts.op_histogram.values()) == facts.nodes == len(model.graph.node)
    # The first convolution alone: 7 × 7 × 3 weights for each of 16 channels of 6 images at half the size.
    assert facts.macs > 6 * 16 * 32 * 16 * 7 * 7 * 3
    assert facts.peak_activation_bytes > 2 * 4 * 6 * 16 * 32 * 16  # what it writes, read by a ReLU that writes as much


@pytest.fixture(scope="module")
def open_engines(runs, tmp_path_factory):
    """LiDAR and fusion detectors whose point buffers are as long as there are points."""
    folder = tmp_path_factory.mktemp("open")
    return {
        name: export_run(runs[name], folder / f"{name}.onnx", dynamic=["points"], precision=precision)
        for name, precision in (("lidar", "fp32"), ("fusion", "fp16"))
    }


def test_an_open_point_buffer_is_declared(open_engines, engines):
    for name, engine in open_engines.items():
        assert engine.manifest.dynamic == {"points": 2000}
        points = next(value for value in onnx.load(engine.path).graph.input if value.name == "points")
        assert points.type.tensor_type.shape.dim[0].dim_param == "points"
        facts, fixed = engine.manifest.graph, engines[name].manifest.graph
        assert (facts.macs, facts.nodes > 100) == (fixed.macs, True)
        assert facts.sha256 != fixed.sha256


def test_an_open_point_buffer_takes_any_number_of_points(open_engines, engines, keyframes):
    for name, engine in open_engines.items():
        spec = engine.manifest.spec
        with open_engine(engine.path) as runner, open_engine(engines[name].path) as fixed:
            for keyframe in keyframes:
                full = load_sample(keyframe, spec)
                sample = dataclasses.replace(full, points_M5=full.points_M5[::2])
                padded = inputs_of(sample, spec)
                tight = tensors_of(sample, engine.manifest)
                assert len(tight["points"]) == len(sample.points_M5) < len(padded["points"]) == 2000
                found = runner.detect(tight)
                np.testing.assert_array_equal(found.boxes_K9, runner.detect(padded).boxes_K9)
                assert agreement(fixed.detect(padded), found).share > 0.9
            for rows in (1, 17):
                few = dict(tight, points=tight["points"][:rows], num_points=np.array([rows], np.int32))
                whole = dict(padded, points=padded["points"] * 0, num_points=few["num_points"])
                whole["points"][:rows] = few["points"]
                np.testing.assert_array_equal(runner.detect(few).scores_K, runner.detect(whole).scores_K)


def test_more_points_than_the_largest_buffer_holds_are_refused(open_engines):
    with open_engine(open_engines["lidar"].path) as runner:
        for rows in (0, 2001):
            tensors = {"points": np.zeros((rows, 5), np.float32), "num_points": np.zeros(1, np.int32)}
            with pytest.raises(UdxError, match=f"reads 1 to 2000 rows of points .*, not {rows}"):
                runner.infer(tensors)


@pytest.mark.parametrize(("name", "dimension"), [("cam", "points"), ("lidar", "batch")])
def test_a_dimension_that_there_is_not_cannot_be_left_open(runs, tmp_path, name, dimension):
    with pytest.raises(UdxError, match=f"a {name} detector has no dimension '{dimension}' to leave open"):
        export_run(runs[name], tmp_path / "student.onnx", dynamic=[dimension])
    assert not list(tmp_path.iterdir())


def test_halves_that_are_too_far_off_are_not_written(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "HEAD_TOLERANCE", 1e-6)
    with pytest.raises(UdxError, match="in FP16 the head maps differ from those in FP32 by"):
        export_run(runs["lidar"], tmp_path / "student.onnx", precision="fp16")
    assert not list(tmp_path.iterdir())


def test_another_rig_is_another_input_to_the_same_session(engines, runs):
    detector, _ = load_detector(runs["cam"].checkpoint)
    spec = detector.config.spec
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 64, 3), dtype=np.uint8)
    session = ort.InferenceSession(str(engines["cam"].path), providers=["CPUExecutionProvider"])
    seen = []
    for turn in (0.0, 0.7):
        tensors = inputs_of(Sample("rig", images, ring_of_cameras(turn), None, Annotations.none()), spec)
        boxes, scores, labels = session.run(None, tensors)
        reference = detections_of(detector, tensors)
        other = dataclasses.replace(reference, boxes_K9=boxes, scores_K=scores, labels_K=labels)
        assert compare(reference, other).largest < 1e-3
        seen.append(scores)
    assert not np.allclose(seen[0], seen[1])


def test_the_file_says_nothing_of_the_machine_that_wrote_it(engines, tmp_path):
    content = engines["cam"].path.read_bytes()
    for secret in (b"site-packages", str(tmp_path.parent).encode(), b".py"):
        assert secret not in content


def test_an_export_that_disagrees_with_torch_is_not_written(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "compare", lambda *_: Parity(score=0.5, box=0.0, boxes_compared=3))
    with pytest.raises(UdxError, match=r"differs from torch by 0\.5"):
        export_run(runs["cam"], tmp_path / "student.onnx")
    assert not list(tmp_path.iterdir())


def test_the_wrong_student_is_refused(runs, tmp_path):
    with pytest.raises(UdxError, match="holds a lidar detector, not cam"):
        find_run("cam", runs["lidar"].folder)
    with pytest.raises(UdxError, match="there is no checkpoint"):
        find_run("cam", tmp_path / "nothing")
    assert find_run(None, runs["lidar"].folder) == (runs["lidar"], "lidar")


def test_default_names_of_exports_do_not_collide():
    kinds = [(modality, precision) for modality in get_args(Modality) for precision in ("fp32", "fp16")]
    names = {kind: default_file(*kind).name for kind in kinds}
    assert names["cam", "fp32"] == "student.onnx" and names["lidar", "fp32"] == "student-lidar.onnx"
    assert len(set(names.values())) == len(names)


def test_deployment_does_not_depend_on_a_hub(runs, monkeypatch):
    import transformers

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(transformers.AutoBackbone, "from_pretrained", offline)
    assert isinstance(load_detector(runs["cam"].checkpoint)[0], torch.nn.Module)
