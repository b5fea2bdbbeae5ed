import numpy as np
import pytest

from udx.data.synth.models import MODELS, bicycle, building, motorcycle, street_lamp, tree
from udx.data.synth.solids import bounds_of
from udx.data.synth.tables import CATEGORIES
from udx.geometry import CLASSES

# Means of nuScenes' annotations (l, w, h), metres, and how far a drawn object may be off.
TYPICAL = {
    "car": (4.62, 1.95, 1.73),
    "truck": (6.93, 2.51, 2.84),
    "bus": (11.2, 2.93, 3.47),
    "trailer": (12.29, 2.9, 3.87),
    "construction_vehicle": (6.37, 2.85, 3.19),
    "pedestrian": (0.73, 0.67, 1.77),
    "motorcycle": (2.11, 0.77, 1.47),
    "bicycle": (1.7, 0.6, 1.28),
    "traffic_cone": (0.41, 0.41, 1.07),
    "barrier": (0.5, 2.53, 0.98),
}


def test_there_is_a_model_of_every_class_and_category() -> None:
    assert set(MODELS) == set(CLASSES)
    assert {MODELS[name](np.random.default_rng(0)).category for name in CLASSES} == set(CATEGORIES)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("seed", range(3))
def test_the_box_is_tight_around_the_solids_and_stands_on_the_ground(name: str, seed: int) -> None:
    model = MODELS[name](np.random.default_rng(seed))
    low, high = bounds_of(model.solids)
    length, width, height = model.size_lwh_m
    np.testing.assert_allclose(low, [-length / 2, -width / 2, 0], atol=1e-9)
    np.testing.assert_allclose(high, [length / 2, width / 2, height], atol=1e-9)


@pytest.mark.parametrize("name", CLASSES)
def test_sizes_are_those_of_nuscenes(name: str) -> None:
    rng = np.random.default_rng(0)
    mean = np.mean([MODELS[name](rng).size_lwh_m for _ in range(20)], axis=0)
    slack = 0.55 if name in ("motorcycle", "bicycle") else 0.35  # ours always carry an upright rider
    np.testing.assert_allclose(mean, TYPICAL[name], rtol=slack)


def test_instances_of_a_class_differ() -> None:
    rng = np.random.default_rng(0)
    first, second = MODELS["car"](rng), MODELS["car"](rng)
    assert first.size_lwh_m != second.size_lwh_m
    assert first.solids[0].colour != second.solids[0].colour


@pytest.mark.parametrize("maker", [motorcycle, bicycle])
def test_a_rider_makes_it_taller(maker: type) -> None:
    with_rider = maker(np.random.default_rng(0), with_rider=True)
    without = maker(np.random.default_rng(0), with_rider=False)
    assert with_rider.size_lwh_m[2] > without.size_lwh_m[2] + 0.4


def test_the_street_stands_on_the_ground() -> None:
    rng = np.random.default_rng(0)
    for solids in (building(rng, 12.0, 9.0), tree(rng), street_lamp()):
        assert abs(bounds_of(solids)[0][2]) < 0.15
