"""Whatever number stands in a configuration, it is refused in one sentence or makes a detector."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.tiny import tiny_detector, tiny_run
from udx.config import from_plain, to_plain, with_override, with_overrides
from udx.errors import UdxError
from udx.geometry import BevGrid
from udx.models.detector import DetectorConfig
from udx.models.outline import outline_detector
from udx.train.job import Request, resolve_config
from udx.train.methods import METHODS
from udx.train.recipes import RECIPES

HOSTILE = (-1, 0, 10**12, 1e300, float("nan"), float("inf"), 0.3, 3)


def numbers_in(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where numbers stand in a configuration in plain form."""
    if isinstance(plain, dict | list):
        for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from numbers_in(value, (*path, key))
    elif isinstance(plain, int | float) and not isinstance(plain, bool):
        yield path


def changed(plain: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(plain))
    target = copy
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return copy


def taken_or_refused(kind: type, plain: Any) -> Any:
    try:
        return from_plain(kind, plain, "here")
    except UdxError as error:
        assert "\n" not in str(error)
        return None


@pytest.mark.parametrize("modality", ["cam", "lidar", "fusion"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_number_of_a_recipe_is_taken_or_refused(recipe, modality):
    config = RECIPES[recipe](modality)
    plain = to_plain(config)
    paths = list(numbers_in(plain))
    assert len(paths) > 30
    refused = 0
    for path in paths:
        for value in HOSTILE:
            built = taken_or_refused(type(config), changed(plain, path, value))
            refused += built is None
            if built is not None and built.train.augmentation is not None:
                for seed in range(3):
                    built.train.augmentation.draw(np.random.default_rng(seed), 6)
    assert refused > 3 * len(paths)
    for path in paths:
        for value in (float("nan"), float("inf")):
            assert taken_or_refused(type(config), changed(plain, path, value)) is None, (path, value)


@pytest.mark.parametrize(("recipe", "part"), [("nano", ""), ("modern", "camera"), ("modern-swin", "camera")])
def test_every_number_of_a_detector_makes_one_or_is_refused(recipe, part):
    config = RECIPES[recipe]("fusion").detector
    plain = to_plain(config)
    for path in numbers_in(plain):
        if part and path[0] != part:
            continue
        for value in (0, 3):
            built = taken_or_refused(DetectorConfig, changed(plain, path, value))
            if built is not None:
                try:
                    detector = outline_detector(built, "here")
                except UdxError as error:
                    assert "\n" not in str(error), error
                else:
                    assert detector.taps.low.channels == built.low_channels


@pytest.mark.parametrize("method", METHODS)
def test_every_number_of_a_method_is_taken_or_refused(method):
    config = METHODS[method]("fusion", "cam")
    plain = to_plain(config)
    for path in numbers_in(plain):
        for value in HOSTILE:
            taken_or_refused(type(config), changed(plain, path, value))


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.optimiser.learning_rate=-1", "learning_rate must be at least 0"),
        ("train.optimiser.learning_rate=NaN", "finite number"),
        ("train.seed=-1", "seed must be at least 0"),
        ("train.workers=100000", "workers must be at least 0 and at most 256"),
        ("detector.low_channels=0", "low_channels must be at least 1"),
        ("detector.max_boxes=1000000", "max_boxes must be at least 1 and at most 5000"),
        ("detector.spec.camera.frustum.stride_px=0", "stride_px must be at least 1"),
        ("detector.spec.camera.frustum.depth_min_m=-1", "depth_min_m must be above 0"),
        ("detector.spec.grid.cell=1e-308", "more than 4096 cells"),
        ("detector.bev_encoder.strides=[2, 5]", "cannot be divided by the BEV encoder's strides"),
        ("detector.camera.backbone=timm_backbone", "no backbone 'timm_backbone'; choose one of convnext"),
        ("detector.camera.settings.depths=[1, 1, 1, 100000]", "depths must be at least"),
        ("detector.camera.settings.depths=[1, 1]", "no detector can be built"),
        ("detector.camera.settings.out_features=[\"stage9\"]", "no detector can be built"),
        ('detector.camera.settings={"attn_implementation": "evil/kernel"}', "'attn_implementation' is no setting"),
        ('detector.camera.settings={"auto_map": {"AutoBackbone": "x--y"}}', "'auto_map' is no setting"),
        ('detector.camera.settings={"hidden_sizes": [[1]]}', "list of numbers or words"),
        ("loss.heatmap=-1", "heatmap must be at least 0"),
        ("distillation.objectives.feature.weight=1e300", "at most 1e"),
        ("recipe=x", "choose a recipe with --recipe"),
        ("train.epochs=" + "[" * 100_000, "expected int"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_data_is_opened(assignment, said):
    with pytest.raises(UdxError, match=said):
        resolve_config(Request(recipe="nano", student="cam", overrides=(assignment,)))


def test_a_detector_too_large_for_any_machine_is_refused_without_memory():
    wide = dataclasses.replace(
        tiny_detector("lidar"),
        low_channels=8192,
        bev_encoder=dataclasses.replace(
            tiny_detector("lidar").bev_encoder, channels=(8192, 8192), convolutions=(4, 4), out_channels=(8192, 8192)
        ),
    )
    with pytest.raises(UdxError, match=r"has [\d,]+ weights, more than 2,147,483,648"):
        outline_detector(wide, "here")


def test_overrides_need_only_be_valid_together():
    config = with_overrides(
        tiny_run("lidar"), ["detector.bev_encoder.channels=[8]", "detector.bev_encoder.strides=[1]",
                            "detector.bev_encoder.convolutions=[1]", "detector.bev_encoder.out_channels=[8]"]
    )  # fmt: skip
    assert config.detector.bev_encoder.channels == (8,)
    with pytest.raises(UdxError, match=r"--set detector.bev_encoder.channels=\[8\] does not hold"):
        with_overrides(tiny_run("lidar"), ["detector.bev_encoder.channels=[8]", "train.epochs=3"])
    assert with_override(tiny_run("lidar"), "train.epochs=3").train.epochs == 3


def test_the_largest_grid_is_no_smaller_than_any_recipe_needs():
    assert BevGrid(-54.0, 54.0, -54.0, 54.0, 0.075).shape == (1440, 1440)
    with pytest.raises(ValueError, match="more than 4096 cells"):
        BevGrid(-1e5, 1e5, -10, 10, 1e-3)
