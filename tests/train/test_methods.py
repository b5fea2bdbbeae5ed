"""The settings of a distillation, and the methods known by name."""

import pytest

from udx.config import from_plain, to_plain, with_override
from udx.errors import UdxError
from udx.train.methods import PAPER_WEIGHTS, DistillationConfig, paper, unidistill
from udx.train.objectives.feature import Feature
from udx.train.objectives.relation import Relation
from udx.train.objectives.response import Response


def test_config_survives_json_and_overrides() -> None:
    config = paper("lidar", "cam")
    assert from_plain(DistillationConfig, to_plain(config), "config.json") == config
    assert with_override(config, "objectives.feature.weight=0").objectives == {
        "feature": Feature(weight=0.0),
        "relation": Relation(weight=40.0),
        "response": Response(weight=10.0),
    }
    assert with_override(config, "adapter=never").adapter == "never"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("objectives.feature.weight=-1", "at least 0"),
        ("objectives.response.weight=Infinity", "finite"),
        ("objectives.feature.ema_decay=1.0", "ema_decay"),
        ("objectives.response.teacher_temperature=0", "temperature"),
        ("objectives.relation.kind=magic", "kind 'magic' is not one of .*feature.*relation.*response"),
        ("objectives={}", "all weights of the distillation losses are 0"),
        ("ramp=1.5", "ramp"),
        ("ema_decay=1.0", "ema_decay"),
        ("encoder_first=1", "encoder_first"),
        ("balance=auto", "'share', 'fixed'"),
        ("adapter=sometimes", "'auto', 'always', 'never'"),
    ],
)
def test_bad_settings_are_named(assignment: str, message: str) -> None:
    with pytest.raises(UdxError, match=message):
        with_override(unidistill(), assignment)


def test_some_weight_must_be_left() -> None:
    with pytest.raises(ValueError, match="all weights of the distillation losses are 0"):
        unidistill(feature=0.0, relation=0.0, response=0.0)


def test_the_papers_settings() -> None:
    assert dict(PAPER_WEIGHTS) == {
        ("fusion", "lidar"): (10, 1, 10),
        ("fusion", "cam"): (10, 5, 10),
        ("cam", "lidar"): (10, 5, 1),
        ("lidar", "cam"): (100, 40, 10),
    }
    config = paper("cam", "lidar")
    assert (config.balance, config.ramp) == ("fixed", 0.0)
    assert config.objectives == {
        "feature": Feature(weight=10.0, normalise=False),
        "relation": Relation(weight=5.0),
        "response": Response(weight=1.0, teacher_temperature=1.0),
    }
    with pytest.raises(UdxError, match="no weights for cam → cam"):
        paper("cam", "cam")
