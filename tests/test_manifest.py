"""The manifest survives JSON, and a foreign or other-convention one is refused."""

import json

import numpy as np
import pytest

from tests.tiny import ring_of_cameras, tiny_detector
from udx.errors import UdxError
from udx.manifest import GraphFacts, Manifest, PrecisionPlan


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
        dynamic={"points": 2000},
        precision=PrecisionPlan(precision="fp16", float32={"points": ("a", "b")}, converter="some 1.0", saturated=3),
        graph=GraphFacts(
            sha256="1" * 64,
            nodes=2,
            op_histogram={"Conv": 2},
            parameters=3,
            parameter_bytes=12,
            macs=7,
            peak_activation_bytes=24,
        ),
    )


def test_it_comes_back():
    text = manifest().to_json()
    back = Manifest.from_json(text, "file.onnx")
    assert back.to_json() == text
    assert back.spec == manifest().spec
    assert (back.graph, back.precision) == (manifest().graph, manifest().precision)
    assert back.precision.exact_nodes == {"a", "b"}
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
        ({"format": "udx-detector/1"}, "this udx reads 'udx-detector/2'"),
        ({"max_boxes": "many"}, "expected int, not 'many'"),
        ({"max_boxes": 0}, "at least one box"),
        ({"dynamic": {"points": 9}}, "are open"),
        ({"dynamic": {"batch": 4}}, "are open"),
        ({"precision": {"precision": "int3"}}, "'int3' is not one of"),
        ({"graph": {"sha256": 1}}, "damaged"),
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
