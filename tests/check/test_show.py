"""The description on a terminal holds every part of it."""

import dataclasses

from tests.build.detectors import write_detector
from tests.check.test_description import here
from udx.check.description import describe
from udx.check.show import manifest_lines, shape_of, show
from udx.manifest import PrecisionPlan, Quantization
from udx.tensors import TensorSpec


def test_a_description_is_shown_whole(capsys, tmp_path):
    found = describe(write_detector(tmp_path / "lidar.onnx"), here)
    show(dataclasses.replace(found, disagreements=("macs: the manifest says 3, and it is 4",)))
    shown = capsys.readouterr().out
    for text in (
        "lidar.onnx: lidar detector, recipe nano",
        found.identity.sha256,
        "500 × 5",
        "7 × 9",
        "accuracy: mAP 25.0 %, NDS 30.0 %",
        "teacher: none",
        "yaw(ccw from +x)",
        "precision: FP32",
        f"structural hash: {found.structure.sha256}, computed anew and equal to the manifest's",
        "1 udx::UdxVoxelCells",
        "0 GMACs",
        "DISAGREES: macs: the manifest says 3",
        "UdxVoxelSums sums: float32[1, 500, 5], int32[1, 1], int32[500], int32[65, 4] → int32[65, 4]",
        "tensorrt builds one engine",
        "tensorrt-rtx builds 1 segment",
        "cannot run onnxruntime-cuda",
        "sudo ubuntu-drivers install",
    ):
        assert text in shown, text


def test_teacher_and_precision_plan_are_said(tmp_path):
    manifest = describe(write_detector(tmp_path / "lidar.onnx"), here).manifest
    plan = PrecisionPlan(
        precision="fp16", float32={"points": ("a", "b"), "sums": ()}, converter="some 1.0", saturated=3, raised=1
    )
    teacher = {"modality": "fusion", "mAP": 0.4, "NDS": None}
    lines = list(manifest_lines(dataclasses.replace(manifest, precision=plan, teacher=teacher)))
    assert "teacher: fusion, mAP 40.0 %; none of it is in the file" in lines
    assert lines[-1] == (
        "precision: FP16, but for 2 nodes in FP32 (points 2); by some 1.0; 3 weights too large for it and 1 too small"
    )


def test_quantization_is_said(tmp_path):
    manifest = describe(write_detector(tmp_path / "lidar.onnx"), here).manifest
    quantization = Quantization(
        method="entropy", source_graph="1" * 64, layers=("a", "b"), split="train", samples=("x",) * 5,
        samples_sha256="2" * 64, map_drop=0.25,
    )  # fmt: skip
    for kept, said in (({"sensitive": ("c",)}, "of layers, FP32 are sensitive 1"), ({}, "no layer is FP32")):
        plan = PrecisionPlan(precision="int8", float32=kept, converter="some 1.0", quantization=quantization)
        assert list(manifest_lines(dataclasses.replace(manifest, precision=plan)))[-1] == (
            "precision: INT8 in 2 layers, and FP32 in everything else; scales by entropy of 5 keyframes of split train"
            f", +0.25 points of mAP lost; {said}"
        )


def test_open_dimensions_are_shown_with_their_largest_size():
    assert shape_of(TensorSpec("points", (-1, 5), "float32"), {"points": 2000}) == "1…2000 × 5"
    assert shape_of(TensorSpec("boxes", (7, 9), "float32"), {"points": 2000}) == "7 × 9"
