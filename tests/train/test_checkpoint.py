"""Checkpoints: what is saved comes back, and what is not ours is refused in one sentence."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import tiny_inputs, tiny_run
from udx.errors import UdxError
from udx.models.detector import Detector
from udx.train.checkpoint import (
    METADATA_KEY,
    CheckpointRecord,
    load_detector,
    load_strictly,
    read_checkpoint,
    save_checkpoint,
)


@pytest.fixture
def saved(tmp_path):
    config = tiny_run("fusion")
    detector = Detector(config.detector).eval()
    record = CheckpointRecord(config=config, step=7, data={"version": "v1.0-mini"}, git_commit="abc")
    save_checkpoint(tmp_path / "checkpoint.safetensors", detector, record)
    return tmp_path / "checkpoint.safetensors", detector, record


def test_a_detector_comes_back_with_its_record(saved):
    path, detector, record = saved
    loaded, its_record = load_detector(path)
    assert its_record == record
    inputs = tiny_inputs(1)
    with torch.no_grad():
        assert torch.equal(loaded(inputs).heads.heatmap_BKHW, detector(inputs).heads.heatmap_BKHW)
    assert not loaded.training


def rewritten(path, **changes):
    tensors = load_file(path)
    record = json.loads(read_checkpoint(path)[0].to_json()) | changes
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(record)})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"box_convention": "x,y,z,w,l,h"}, "box_convention 'x,y,z,w,l,h'"),
        ({"classes": ["car"]}, "classes"),
        ({"format": "udx-checkpoint/99"}, "format 'udx-checkpoint/99'"),
        ({"unheard": 1}, "unknown field 'unheard'"),
        ({"step": "many"}, "expected int"),
    ],
)
def test_a_record_of_another_convention_is_refused(saved, changes, said):
    path, *_ = saved
    rewritten(path, **changes)
    with pytest.raises(UdxError, match=said):
        read_checkpoint(path)


def test_a_checkpoint_of_another_recipe_lists_what_differs(saved):
    path, *_ = saved
    other = Detector(tiny_run("lidar").detector)
    with pytest.raises(UdxError, match=r"another detector: \d+ unknown, as camera"):
        load_strictly(other, load_file(path), path)


def test_widths_that_differ_are_named(saved):
    path, *_ = saved
    wider = dataclasses.replace(tiny_run("fusion").detector, low_channels=16)
    with pytest.raises(UdxError, match="of another shape"):
        load_strictly(Detector(wider), load_file(path), path)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(UdxError, match="not a whole safetensors file"):
        read_checkpoint(path)


def test_a_truncated_file_is_refused(saved):
    path, *_ = saved
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UdxError, match="not a whole safetensors file"):
        read_checkpoint(path)


def test_foreign_weights_are_refused(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UdxError, match="did not write"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(UdxError, match="train the run first"):
        read_checkpoint(tmp_path / "none.safetensors")


HOSTILE_DETECTORS = [
    ({"camera": {"settings": {"attn_implementation": "evil/kernel"}}}, "'attn_implementation' is no setting"),
    (
        {"camera": {"settings": {"depths": [1, 1], "out_features": ["stage4"]}}},
        "no detector can be built from the configuration of .*checkpoint",
    ),
    ({"camera": {"backbone": "timm_backbone"}}, "no backbone 'timm_backbone'"),
    ({"low_channels": 0}, "low_channels must be at least 1"),
    ({"low_channels": 8000}, "another detector: .* of another shape"),
    ({"max_boxes": 10**9}, "max_boxes must be at least 1"),
    ({"lidar": {"pillars_per_cell": 10**6}}, "pillars_per_cell must be at least 1 and at most"),
    ({"bev_encoder": {"strides": [0, 2]}}, "stride must be at least 1"),
    ({"spec": {"grid": {"cell": 1e-300}}}, "more than 4096 cells"),
    ({"spec": {"lidar": {"max_points": 10**12}}}, "max_points must be at least 1 and at most"),
]


def merged(plain, changes):
    return {
        **plain,
        **{name: merged(plain[name], to) if isinstance(to, dict) else to for name, to in changes.items()},
    } if "settings" not in changes else {**plain, **changes}  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), HOSTILE_DETECTORS)
def test_a_checkpoint_whose_configuration_makes_no_detector_is_one_sentence(saved, changes, said):
    path, _, record = saved
    plain = json.loads(record.to_json())["config"]
    rewritten(path, config={**plain, "detector": merged(plain["detector"], changes)})
    with pytest.raises(UdxError, match=said):
        load_detector(path)


@pytest.mark.parametrize("rig", [{}, {"names": ["a"], "intrinsics": "x", "ego_T_cam": [[1]]}, {"names": 3}])
def test_a_checkpoint_whose_rig_is_none_is_one_sentence(saved, rig):
    path, *_ = saved
    rewritten(path, rig=rig)
    with pytest.raises(UdxError, match="does not hold a valid CheckpointRecord"):
        load_detector(path)
