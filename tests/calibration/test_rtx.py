"""TensorRT-RTX builds what ``udx calibrate`` writes; full-size INT8 detectors are built in tests/build/test_rtx.py."""

import pytest

from tests.build.exported import exported_model
from tests.build.plans import build_plan
from tests.build.quantised import write_quantised

pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'udx[rtx]'")
pytest.importorskip("triton", reason="compiles the kernels between segments")


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_plan_of_a_quantized_detector(precision, tmp_path):
    file = write_quantised(tmp_path / "student.onnx", *exported_model("tiny", "cam"), to=precision)
    built = build_plan(file, tmp_path / "student.plan", "tensorrt-rtx", precision=precision, arches=(89,))
    assert built.plan.precision == precision
    assert sum(built.engine_bytes.values()) > 1000
