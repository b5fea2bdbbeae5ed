"""An engine is identified by its bytes, its manifest and its structure."""

import json

from udx.files import sha256_of
from udx.runtime.identity import identify


def test_identity_of_a_file(make_engine) -> None:
    path = make_engine(modality="fusion")
    found = identify(path)
    assert (found.file, found.bytes, found.sha256) == ("student.onnx", path.stat().st_size, sha256_of(path))
    assert found.structure.op_histogram["Conv"] == 1
    assert found.structure.opset == {"ai.onnx": 20}
    # 6 images of 32 × 64 pixels, 3 channels to 3 by 3 × 3 weights
    assert found.structure.macs == 6 * 32 * 64 * 3 * 3 * 3 * 3
    # convolution 81, scores 7, boxes 63; the labels are int64 values, which are structure
    assert found.structure.parameters == 81 + 7 + 63


def test_json_of_an_identity_is_plain(make_engine) -> None:
    found = json.loads(json.dumps(identify(make_engine()).to_json(), allow_nan=False))
    assert found["manifest"]["student"] == "cam"
    assert found["manifest"]["spec"]["grid"]["cell"] == 2.0
    assert "multiply-accumulates" in found["structure"]["mac_rule"]
