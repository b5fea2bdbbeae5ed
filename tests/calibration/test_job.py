"""``udx calibrate`` from file to file, and everything that it refuses."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.build.exported import exported_model, frame_of, write_fp16, write_sealed
from udx.calibration.budget import Outcome, Step
from udx.calibration.job import Calibrated, Request, calibrate
from udx.calibration.report import write_report
from udx.calibration.samples import digest
from udx.errors import UdxError
from udx.runtime import open_engine
from udx.runtime.onnx_file import read_onnx


@contextlib.contextmanager
def silent(title: str) -> Iterator:
    yield lambda done, total: None


@pytest.fixture(scope="module")
def calibrated(exports, two_scenes, tmp_path_factory) -> Calibrated:
    out = tmp_path_factory.mktemp("out") / "lidar.int8.onnx"
    request = Request(
        file=exports("lidar"), out=out, root=two_scenes, samples=3, judged=3, method="percentile", max_map_drop=100.0
    )
    return calibrate(request, silent)


def test_the_file_tells_of_its_scales(calibrated, two_scenes):
    file = read_onnx(calibrated.path)
    plan = file.manifest.precision
    assert plan == calibrated.plan
    assert plan.precision == "int8"
    assert plan.quantization.method == "percentile"
    assert plan.quantization.samples_sha256 == digest(plan.quantization.samples)
    assert len(set(plan.quantization.samples)) == 3
    assert plan.quantization.source_graph == read_onnx(calibrated.source).manifest.graph.sha256
    assert file.manifest.graph.op_histogram["QuantizeLinear"] == len(calibrated.scales.activations)
    assert plan.float32["points"] and plan.float32["heads"]
    assert calibrated.path.stat().st_size < 0.8 * calibrated.source.stat().st_size


def test_it_detects_almost_as_before(calibrated):
    with open_engine(calibrated.source) as exact, open_engine(calibrated.path) as quantized:
        frame = frame_of(exact.manifest, seed=1)
        scores = [runner.detect(frame).scores_K for runner in (exact, quantized)]
    assert np.abs(scores[0] - scores[1]).max() < 0.1
    assert not np.array_equal(*scores)


def test_the_report_has_every_layer_and_step(calibrated, tmp_path):
    write_report(calibrated, html_file=tmp_path / "r.html", json_file=tmp_path / "c.json")
    written = json.loads((tmp_path / "c.json").read_text())
    assert written == json.loads((tmp_path / "r.json").read_text())
    errors = [layer["error"] for layer in written["sensitivity"]["layers"]]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0
    assert {layer["name"] for layer in written["sensitivity"]["layers"]} == set(calibrated.placement.nodes)
    assert written["budget"]["met"] and written["budget"]["steps"][0]["skipped"] is None
    page = (tmp_path / "r.html").read_text()
    assert "<svg" in page and all(node in page for node in calibrated.placement.nodes)
    chart = page.partition("<svg")[2].partition("</svg>")[0]
    assert chart.count("<rect") == chart.count(" %</text>") == len(written["sensitivity"]["blocks"])
    assert page.count(calibrated.outcome.sentence()) == 1


def test_the_report_says_nothing_twice(calibrated, tmp_path):
    steps = (Step(skipped=None, error=0.0, mAP=0.5, drop=0.25),)
    outcome = dataclasses.replace(calibrated.outcome, steps=steps, exact_mAP=0.5025, budget=0.5)
    assert not outcome.vacuous
    write_report(dataclasses.replace(calibrated, outcome=outcome), html_file=tmp_path / "r.html", json_file=None)
    page = (tmp_path / "r.html").read_text()
    assert page.count("points of mAP lost") == 1 and page.count("within the budget of 0.5") == 1
    assert "<b>+0.25 points of mAP lost</b>With every layer quantized, within the budget of 0.5" in page


def test_calibration_and_judgement_share_no_scene(calibrated, two_scenes):
    from udx.data.nuscenes import open_dataroot

    nusc = open_dataroot(two_scenes)
    scenes = {nusc.get("sample", token)["scene_token"] for token in calibrated.plan.quantization.samples}
    assert len(scenes) == 1
    assert calibrated.judged == 3


def leave_out_the_worst(placement, ranked, exact_mAP, measure, budget) -> Outcome:
    """Random weights lose nothing, so a budget would leave nothing out."""
    return Outcome(placement.without({ranked[0].name}), (Step(ranked[0].name, 0.0, 0.0, 0.0),), exact_mAP, budget)


def test_a_twin_takes_placement_and_skip_list_over(exports, two_scenes, tmp_path, monkeypatch):
    """Two detectors of one architecture with other weights: one graph, whatever the scales."""
    common = {"root": two_scenes, "samples": 3, "method": "max"}
    monkeypatch.setattr("udx.calibration.job.meet", leave_out_the_worst)
    one = calibrate(Request(file=exports("lidar"), out=tmp_path / "one.onnx", judged=3, **common), silent)
    assert one.outcome is not None and len(one.plan.float32["sensitive"]) == 1

    model, manifest = exported_model("tiny", "lidar")
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 4:
            weight = numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                numpy_helper.from_array(weight * rng.uniform(0.8, 1.2, weight.shape).astype("f4"), tensor.name)
            )
    file = write_sealed(tmp_path / "twin.onnx", model, manifest)
    request = Request(file=file, out=tmp_path / "two.onnx", like=one.path, **common)
    two = calibrate(request, silent)
    assert two.plan.quantization.layers == one.plan.quantization.layers
    assert two.plan.float32 == one.plan.float32
    hashes = {read_onnx(item.path).manifest.graph.sha256 for item in (one, two)}
    assert len(hashes) == 1
    assert two.scales != one.scales


def test_fp8_keeps_what_relu_gives(exports, two_scenes, tmp_path):
    """ONNX Runtime must not drop the Relu before a pair whose zero point is FP8's."""
    request = Request(
        file=exports("cam"), out=tmp_path / "cam.fp8.onnx", root=two_scenes, samples=3, precision="fp8", plain=True,
        method="max",
    )  # fmt: skip
    done = calibrate(request, silent)
    assert read_onnx(done.path).manifest.precision.precision == "fp8"
    with open_engine(done.source) as exact, open_engine(done.path) as quantized:
        frame = frame_of(exact.manifest, seed=1)
        scores = [runner.detect(frame).scores_K for runner in (exact, quantized)]
    assert np.abs(scores[0] - scores[1]).max() < 0.1


def refused(request: Request) -> str:
    with pytest.raises(UdxError) as caught:
        calibrate(request, silent)
    sentence = str(caught.value)
    assert "\n" not in sentence and "; " in sentence
    assert not request.target.exists()
    return sentence


def plain(file, root, **more) -> Request:
    return Request(**{"file": file, "root": root, "samples": 2, "plain": True, "method": "max"} | more)


def test_no_data(exports, world_root, tmp_path):
    assert "is not a folder" in refused(plain(exports("lidar"), tmp_path / "nowhere", out=tmp_path / "o.onnx"))
    assert "gives no sample to calibrate with" in refused(
        plain(exports("lidar"), world_root, samples=0, out=tmp_path / "o.onnx")
    )


def test_a_single_sample(exports, world_root, tmp_path):
    assert "a single sample" in refused(plain(exports("lidar"), world_root, samples=1, out=tmp_path / "o.onnx"))


def test_samples_of_the_validation_split_only_by_force(exports, world_root, tmp_path):
    request = plain(exports("lidar"), world_root, split="val", out=tmp_path / "o.onnx")
    assert "a scene of the validation split 'val'" in refused(request)
    assert calibrate(dataclasses.replace(request, force=True), silent).plan.quantization.split == "val"


def test_nothing_to_judge_by(exports, world_root, tmp_path):
    request = plain(exports("lidar"), world_root, plain=False, out=tmp_path / "o.onnx")
    assert "one scene alone" in refused(request)


def test_a_file_that_is_quantized_already(calibrated, two_scenes, tmp_path):
    assert "is quantized to INT8 already" in refused(plain(calibrated.path, two_scenes, out=tmp_path / "o.onnx"))


def test_a_file_in_fp16(two_scenes, tmp_path):
    file = write_fp16(tmp_path / "half.onnx", *exported_model("tiny", "lidar"))
    assert "is in FP16" in refused(plain(file, two_scenes, out=tmp_path / "o.onnx"))


def weight_of(model: onnx.ModelProto, part: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if part in tensor.name and len(tensor.dims) == 4)


def scale_weight(model: onnx.ModelProto, factor: float) -> None:
    tensor = weight_of(model, "to_low.0")
    with np.errstate(over="ignore"):
        scaled = (numpy_helper.to_array(tensor) * np.float32(factor)).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(np.nan_to_num(scaled, posinf=3e38, neginf=-3e38), tensor.name))


def test_activations_with_infinities(changed, two_scenes, tmp_path):
    file = changed(lambda model: scale_weight(model, 1e38))
    assert "computes infinities or NaN in" in refused(plain(file, two_scenes, out=tmp_path / "o.onnx"))


def test_activations_that_are_zero_throughout(changed, two_scenes, tmp_path):
    def silence(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if "to_low.0" in tensor.name:
                zeros = np.zeros(tuple(tensor.dims), np.float32)
                tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))

    assert "computes nothing but 0 in" in refused(plain(changed(silence), two_scenes, out=tmp_path / "o.onnx"))


def test_a_constant_channel_is_no_mistake(changed, two_scenes, tmp_path):
    def silence_one(model: onnx.ModelProto) -> None:
        tensor = weight_of(model, "to_low.0")
        weight = numpy_helper.to_array(tensor).copy()
        weight[0] = 0.0
        tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))

    done = calibrate(plain(changed(silence_one), two_scenes, out=tmp_path / "o.onnx"), silent)
    assert done.notes == ("1 channel of detector.lidar.to_low.0.0.weight is constant 0: its scale is 1",)
    with open_engine(done.path) as runner:
        assert np.isfinite(runner.detect(frame_of(runner.manifest)).scores_K).all()


def test_a_twin_must_be_one(calibrated, exports, two_scenes, tmp_path):
    out = tmp_path / "o.onnx"
    assert "from another graph" in refused(plain(exports("cam"), two_scenes, like=calibrated.path, out=out))
    assert "is not quantized" in refused(plain(exports("lidar"), two_scenes, like=exports("lidar"), out=out))


@pytest.mark.parametrize("layers", ["none", "all"])
def test_a_manifest_that_lies_of_its_layers_is_refused(calibrated, tmp_path, layers):
    """Neither a hidden quantized layer nor a missing one goes through."""
    file = read_onnx(calibrated.path)
    quantization = file.manifest.precision.quantization
    told = quantization.layers[1:] if layers == "none" else (*quantization.layers, "node_conv2d_1")
    plan = dataclasses.replace(file.manifest.precision, quantization=dataclasses.replace(quantization, layers=told))
    path = write_sealed(tmp_path / "lie.onnx", file.model, dataclasses.replace(file.manifest, precision=plan))
    with pytest.raises(UdxError, match=r"with (quantized|full) weights.* calibrate it again"):
        read_onnx(path)
