"""Recipes: complete, in the setting that they name, and buildable as detectors."""

import dataclasses
import json

import pytest
import torch

from udx.config import from_plain, to_plain
from udx.models.detector import Detector
from udx.train.recipes import RECIPES, RunConfig, base


@pytest.mark.parametrize("modality", ["cam", "lidar", "fusion"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json_and_becomes_a_detector(name, modality):
    config = RECIPES[name](modality)
    assert config.recipe == name
    assert config.detector.spec.modality == modality
    plain = json.loads(json.dumps(to_plain(config)))
    assert from_plain(RunConfig, plain, "test") == config
    camera = dataclasses.replace(config.detector.camera, pretrained=None)
    with torch.device("meta"):
        detector = Detector(dataclasses.replace(config.detector, camera=camera))
    assert detector.taps.low.channels == config.detector.low_channels


def test_base_is_the_papers_setting():
    config = base("fusion")
    spec, train = config.detector.spec, config.train
    assert (spec.grid.x_min, spec.grid.x_max, spec.grid.cell, spec.grid.shape) == (-54.0, 54.0, 0.6, (180, 180))
    assert spec.camera.frustum.depth_bins == 112
    assert (spec.camera.frustum.image_height_px, spec.camera.frustum.image_width_px) == (256, 704)
    assert len(spec.camera.names) == 6 and spec.lidar.sweeps == 10
    assert (train.epochs, train.batch_size * 4, train.class_balanced) == (20, 20, True)
    assert train.augmentation.bev.scale == (0.9, 1.1)
    assert train.optimiser.schedule == "steps" and train.optimiser.drops == (0.5, 0.75)
    assert base("cam").train.optimiser.learning_rate == 2e-4
    assert config.detector.camera.pretrained == "microsoft/resnet-50"


def test_modern_has_what_camera_students_have_today():
    config = RECIPES["modern"]("cam")
    assert config.loss.depth > 0 and config.train.ema_decay > 0.99 and config.train.epochs > base("cam").train.epochs
    assert config.detector.camera.backbone == "convnext"
    assert RECIPES["modern-swin"]("cam").detector.camera.backbone == "swin"


def test_a_share_of_the_training_is_between_0_and_1():
    with pytest.raises(ValueError, match="shares of the training between 0 and 1"):
        dataclasses.replace(base("cam").train.optimiser, drops=(8.0,))
