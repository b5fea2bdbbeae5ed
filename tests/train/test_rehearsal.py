"""A dry run: sizes that can be counted by hand, a step that is taken, and nothing written."""

import dataclasses

import pytest
import torch

from tests.tiny import tiny_run
from udx.models.detector import Detector
from udx.train.generated import generated_sample
from udx.train.loop import Job, train
from udx.train.rehearsal import _Kept, rehearse
from udx.train.run import Run


def test_it_counts_what_training_takes(keyframes):
    config = tiny_run("fusion", ema_decay=0.9)
    found = rehearse(config, keyframes, None)
    parameters = sum(p.numel() for p in Detector(config.detector).parameters())
    assert sum(found.parameters.values()) == parameters
    assert found.memory_mib["gradients"] == pytest.approx(4 * parameters / 2**20, abs=0.06)
    assert found.memory_mib["moments of AdamW"] == pytest.approx(8 * parameters / 2**20, abs=0.06)
    assert found.memory_mib["average of weights"] == found.memory_mib["weights"]
    assert found.memory_mib["activations"] > 1
    assert found.steps == len(keyframes) // 2 * config.train.epochs
    assert found.batch == "2 keyframes"
    assert found.load_s is not None and found.step_s > 0
    assert {"heatmap", "depth"} <= found.losses.keys()


def test_what_autograd_keeps_is_counted_once_and_without_weights():
    layer = torch.nn.Linear(8, 8, bias=False)
    given = torch.rand(4, 8, requires_grad=True)
    kept = _Kept(layer)
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        hidden = layer(given)  # keeps its input and its weight
        (hidden * hidden).sum()  # keeps the product's factors, which are one
    assert kept.num_bytes == 2 * 4 * 8 * 4


def test_without_data_samples_of_the_same_shapes_are_generated(keyframes):
    config = tiny_run("cam")
    spec, teacher = config.detector.spec, tiny_run("fusion").detector.spec
    from udx.train.batch import KeyFrames

    real = KeyFrames(keyframes, spec, teacher, with_depth=True)[0, 0]
    made = generated_sample(spec, teacher, True, seed=0)
    for given, other in ((real.inputs, made.inputs), (real.teacher_inputs, made.teacher_inputs)):
        for field in dataclasses.fields(given):
            one, two = getattr(given, field.name), getattr(other, field.name)
            assert (one is None) == (two is None)
            assert one is None or (one.shape, one.dtype) == (two.shape, two.dtype)
    assert real.depth_BNhw.shape == made.depth_BNhw.shape
    found = rehearse(config, [], "lidar")
    assert found.steps is None and found.load_s is None
    assert found.batch == "2 generated samples"
    assert found.parameters["teacher"] > 0
    assert {"feature", "relation", "response"} <= found.losses.keys()


def test_a_trained_teacher_is_taken(keyframes, tmp_path):
    run = Run(tmp_path / "teacher")
    train(Job(config=tiny_run("lidar", epochs=1), keyframes=keyframes, data={"keyframes": "tiny"}, run=run))
    before = sorted(tmp_path.rglob("*"))
    found = rehearse(tiny_run("cam"), keyframes, run)
    assert found.memory_mib["teacher"] > 0
    assert sorted(tmp_path.rglob("*")) == before
