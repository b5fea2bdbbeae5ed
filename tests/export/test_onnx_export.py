"""The exported file is the student and nothing but the student, in stock ONNX Runtime, for every calibration."""

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from tests.tiny import ring_of_cameras, tiny_run
from udx.data.frame import Annotations, Sample
from udx.data.inputs import input_shapes, inputs_of
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.errors import UdxError
from udx.export import onnx_export
from udx.export.onnx_export import detections_of, export_run, export_student
from udx.export.parity import Parity, compare
from udx.manifest import METADATA_KEY, Manifest
from udx.operators import DOMAIN, PLUGIN_ATTRIBUTES
from udx.runtime.engine import open_engine
from udx.train.checkpoint import load_detector
from udx.train.loop import Job, train
from udx.train.run import Run

PILLARS = {"UdxVoxelCells", "UdxVoxelSums", "UdxPillarFeatures", "UdxPillarClear", "UdxPillarMax"}
OPERATORS = {"cam": {"UdxBevPool"}, "lidar": PILLARS, "fusion": {"UdxBevPool", *PILLARS}}


@pytest.fixture(scope="module")
def keyframes(world_root):
    return load_keyframes(open_dataroot(world_root), "train", max_sweeps=1)


@pytest.fixture(scope="module")
def runs(keyframes, tmp_path_factory):
    """A fusion teacher, a LiDAR detector, and camera students with and without the teacher."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Run] = {}
    for name, modality, teacher in (
        ("fusion", "fusion", None),
        ("lidar", "lidar", None),
        ("cam", "cam", None),
        ("distilled", "cam", "fusion"),
    ):
        made[name] = Run(folder / name)
        train(
            Job(
                config=tiny_run(modality, epochs=25),  # flat heatmaps have ties, and a tie may fall either way
                keyframes=keyframes,
                data={"keyframes": "tiny"},
                run=made[name],
                teacher=made[teacher] if teacher else None,
            )
        )
    return made


@pytest.fixture(scope="module")
def engines(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    return {name: export_run(run, folder / f"{name}.onnx") for name, run in runs.items()}


@pytest.mark.parametrize("name", ["cam", "lidar", "fusion", "distilled"])
def test_stock_onnx_runtime_agrees_with_torch_on_real_frames(engines, runs, keyframes, name):
    from udx.data.load import load_sample

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


def is_rescaled(stored: np.ndarray, own: np.ndarray) -> bool:
    """Whether ``stored`` is ``own`` with every output channel scaled, as folding a batch norm does."""
    if stored.shape != own.shape:
        return False
    for axis in (0, 1):  # a transposed convolution has its output channels second
        one, other = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (stored, own))
        if one.shape[1] < 4:
            continue  # so short a slice is a multiple of any other
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        if (np.abs((one * other).sum(axis=1)) >= 0.99999 * lengths).all():
            return True
    return False


def test_every_weight_is_the_students_own_and_none_is_missing(engines, runs):
    model = onnx.load(engines["distilled"].path)
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored = [array for array in initializers.values() if array.ndim == 4 and array.dtype == np.float32]
    stored = [array for array in stored if array.size > 3]  # the images' mean and deviation are no weights

    def kernels(name):
        detector, _ = load_detector(runs[name].checkpoint)
        return [tensor.numpy() for tensor in detector.state_dict().values() if tensor.dim() == 4]

    def explained(arrays, by):
        return [any(is_rescaled(array, own) for own in by) for array in arrays]

    student = [own for own in kernels("distilled") if any(own.shape == array.shape for array in stored)]
    assert all(explained(stored, by=student))
    assert len(stored) == sum(explained(student, by=stored))
    # The teacher has layers of the same shapes: their values must not be found, or the check above proves nothing.
    assert not any(explained(kernels("fusion"), by=stored))
    names = " ".join([*initializers, *(node.name for node in model.graph.node)])
    assert not any(word in names.lower() for word in ("teacher", "adapter", "distill", "objective", "loss"))


def test_distilled_and_undistilled_students_are_one_structure(engines):
    from udx.runtime.graph import differences
    from udx.runtime.identity import identify

    one, other = (identify(engines[name].path).structure for name in ("cam", "distilled"))
    assert one.sha256 == other.sha256
    assert not differences(one, other)


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
        export_student("cam", runs["lidar"].folder, tmp_path / "student.onnx")
    with pytest.raises(UdxError, match="there is no checkpoint"):
        export_student("cam", tmp_path / "nothing", tmp_path / "student.onnx")


def test_deployment_does_not_depend_on_a_hub(runs, monkeypatch):
    import transformers

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(transformers.AutoBackbone, "from_pretrained", offline)
    assert isinstance(load_detector(runs["cam"].checkpoint)[0], torch.nn.Module)
