"""The manifest survives JSON, and a foreign or other-convention one is refused."""

import json

import numpy as np
import pytest

from tests.tiny import ring_of_cameras, tiny_detector
from udx.errors import UdxError
from udx.manifest import Manifest


def manifest() -> Manifest:
    return Manifest(
        recipe="nano",
        spec=tiny_detector("fusion").spec,
        max_boxes=30,
        checkpoint_sha256="0" * 64,
        git_commit="abc",
        udx_version="0.1.0",
        metrics={"mAP": 0.5},
        rig=ring_of_cameras(),
    )


def test_it_comes_back():
    text = manifest().to_json()
    back = Manifest.from_json(text, "file.onnx")
    assert back.to_json() == text
    assert back.spec == manifest().spec
    np.testing.assert_array_equal(back.rig.ego_T_cam_N44, ring_of_cameras().ego_T_cam_N44)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other/1"}, "manifest format 'other/1'"),
        ({"box_convention": "x,y,z,w,l,h,yaw"}, "has boxes as 'x,y,z,w,l,h,yaw'"),
        ({"classes": ["car", "tree"]}, "detects"),
        ({"spec": {}}, "SensorSpec"),
        ({"surprise": 1}, "damaged"),
        ({"rig": {"names": ["A"]}}, "damaged"),
    ],
)
def test_what_is_not_ours_is_refused(change, said):
    text = json.dumps(json.loads(manifest().to_json()) | change)
    with pytest.raises(UdxError, match=said) as error:
        Manifest.from_json(text, "file.onnx")
    assert "file.onnx" in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", "{"])
def test_damage_is_one_sentence(text):
    with pytest.raises(UdxError, match=r"file\.onnx has a damaged udx manifest"):
        Manifest.from_json(text, "file.onnx")
