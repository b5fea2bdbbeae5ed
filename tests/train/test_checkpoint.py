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
