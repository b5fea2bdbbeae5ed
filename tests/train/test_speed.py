"""Ways to compute that change neither losses nor weights, nor what a batch norm remembers."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from udx.train.logbook import read_log
from udx.train.loop import train


def trained(make_job, folder, **settings):
    config = make_job(folder, "fusion", epochs=2).config
    job = make_job(folder, config=dataclasses.replace(config, train=dataclasses.replace(config.train, **settings)))
    train(job)
    return [line["loss"] for line in read_log(job.run.log)], load_file(job.run.checkpoint)


@pytest.fixture
def plain(make_job, tmp_path):
    return trained(make_job, tmp_path / "plain", ema_decay=0.5)


def test_activations_computed_twice_change_no_bit(make_job, tmp_path, plain):
    losses, weights = trained(make_job, tmp_path / "recomputed", recompute=True, ema_decay=0.5)
    assert losses == plain[0]
    assert weights.keys() == plain[1].keys()
    assert all(torch.equal(weights[name], plain[1][name]) for name in weights)


def test_channels_last_changes_rounding_alone(make_job, tmp_path, plain):
    losses, weights = trained(make_job, tmp_path / "last", channels_last=True, ema_decay=0.5)
    assert losses == pytest.approx(plain[0], rel=1e-3)
    assert weights.keys() == plain[1].keys()


def test_compiled_parts_are_asked_for_and_keep_their_names(make_job, tmp_path, plain, monkeypatch):
    compiled = []
    # The compiler itself takes minutes here; that it is a compiler's to keep the numbers is its own tests' to hold.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    losses, weights = trained(make_job, tmp_path / "compiled", compile=True, ema_decay=0.5)
    assert losses == plain[0] and weights.keys() == plain[1].keys()
    assert {"CenterHead", "ResNetBackbone"} <= set(compiled)
