"""Weights of a backbone that somebody else trained: from a folder, of the very architecture, or one sentence."""

import dataclasses

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification

from tests.tiny import tiny_detector
from udx.errors import UdxError
from udx.models.camera import build_backbone

CONFIG = tiny_detector("cam").camera
SIZES = {name: CONFIG.settings[name] for name in ("layer_type", "embedding_size", "hidden_sizes", "depths")}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A folder as the hub has it: an image classifier's configuration and safetensors."""
    folder = tmp_path_factory.mktemp("weights") / "resnet"
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(AutoConfig.for_model("resnet", **SIZES))
    model.save_pretrained(folder)
    return folder, model


def test_a_classifiers_weights_come_into_the_backbone(classifier):
    folder, model = classifier
    backbone = build_backbone(dataclasses.replace(CONFIG, pretrained=str(folder)))
    theirs = model.resnet.state_dict()
    ours = {name: tensor for name, tensor in backbone.state_dict().items() if name.startswith("e")}
    assert ours and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert list(backbone.channels) == [16, 16]


@pytest.mark.parametrize("settings", [{"hidden_sizes": [16, 16, 16, 24]}, {"depths": [1, 2, 1, 1]}])
def test_weights_of_another_architecture_are_refused(classifier, settings):
    config = dataclasses.replace(CONFIG, pretrained=str(classifier[0]), settings={**CONFIG.settings, **settings})
    with pytest.raises(UdxError, match=r"are not those of the resnet that detector\.camera\.settings describe"):
        build_backbone(config)


def test_weights_that_are_nowhere_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in (str(tmp_path / "nowhere"), "nobody/nothing"):
        with pytest.raises(UdxError, match=r"there are no weights .*pretrained=FOLDER, or begin without any with"):
            build_backbone(dataclasses.replace(CONFIG, pretrained=name))
