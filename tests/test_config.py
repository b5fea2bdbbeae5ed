"""Configuration: a recipe survives JSON, overrides are typed, mistakes are named."""

import dataclasses
import json

import pytest

from udx.config import from_plain, to_plain, with_override
from udx.errors import UdxError
from udx.train.recipes import RECIPES, RunConfig, nano


@pytest.mark.parametrize("modality", ["cam", "lidar", "fusion"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_comes_back_from_json(recipe, modality):
    config = RECIPES[recipe](modality)
    assert config.detector.spec.modality == modality
    assert from_plain(RunConfig, json.loads(json.dumps(to_plain(config))), "here") == config


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_of_one_name_share_what_students_and_teachers_must_share(recipe):
    specs = [RECIPES[recipe](modality).detector.spec for modality in ("cam", "lidar", "fusion")]
    assert len({spec.grid for spec in specs}) == 1
    assert specs[0].camera == specs[2].camera
    assert specs[1].lidar == specs[2].lidar


def test_an_override_keeps_the_type():
    config = with_override(nano("cam"), "train.optimiser.learning_rate=1")
    assert config.train.optimiser.learning_rate == 1.0
    assert type(config.train.optimiser.learning_rate) is float
    assert with_override(config, "train.augmentation=null").train.augmentation is None
    assert with_override(config, "detector.bev_encoder.channels=[8, 16]").detector.bev_encoder.channels == (8, 16)
    assert with_override(config, "distillation.balance=fixed").distillation.balance == "fixed"
    assert dataclasses.replace(config, train=nano("cam").train) == nano("cam")


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.epochs", "no '='"),
        ("train.epoch=1", "no field 'train.epoch' (did you mean train.epochs"),
        ("train=1", "expected fields of TrainConfig"),
        ("train.epochs=1.5", "expected int, not 1.5"),
        ("train.epochs=true", "expected int, not True"),
        ("distillation.balance=magic", "'magic' is not one of"),
        ("detector.bev_encoder.channels=[8]", "one entry a stage"),
        ("distillation.objectives.feature.weight=-1", "at least 0"),
        ("distillation.objectives.feature.kind=magic", "kind 'magic' is not one of"),
        ("distillation.objectives.feature.teacher_temperature=2", "no field"),
    ],
)
def test_a_wrong_override_is_named(assignment, said):
    with pytest.raises(UdxError, match=said.replace("(", r"\(")):
        with_override(nano("cam"), assignment)


def test_unknown_and_missing_fields_are_named():
    plain = to_plain(nano("cam"))
    with pytest.raises(UdxError, match="unknown field 'colour'"):
        from_plain(RunConfig, plain | {"colour": 1}, "config.json")
    del plain["loss"]
    with pytest.raises(UdxError, match=r"config\.json does not hold a valid RunConfig.*loss"):
        from_plain(RunConfig, plain, "config.json")
