"""What nuScenes itself names: the categories of its boxes, and the scenes of its splits."""

from collections.abc import Collection, Mapping
from typing import Final

CATEGORIES: Final[Mapping[str, str | None]] = {
    "animal": None,
    "flat.driveable_surface": None,
    "flat.other": None,
    "flat.sidewalk": None,
    "flat.terrain": None,
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.personal_mobility": None,
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.stroller": None,
    "human.pedestrian.wheelchair": None,
    "movable_object.barrier": "barrier",
    "movable_object.debris": None,
    "movable_object.pushable_pullable": None,
    "movable_object.trafficcone": "traffic_cone",
    "noise": None,
    "static.manmade": None,
    "static.other": None,
    "static.vegetation": None,
    "static_object.bicycle_rack": None,
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.ego": None,
    "vehicle.emergency.ambulance": None,
    "vehicle.emergency.police": None,
    "vehicle.motorcycle": "motorcycle",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
"""Class of the detection task by category; ``None`` for categories that it leaves out."""

_VAL: Final = (
    "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 632-638 "
    "770-771 775 777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 1059-1073 "
)
_TEST: Final = (
    "77-91 111-119 140 142-148 265-266 279-282 307-314 333-343 481-498 547-551 601-604 606-624 827-831 "
    "833-842 844-846 932-933 935-943 1026-1043 "
)
_MINI_TRAIN: Final = "61 553 655 757 796 1077 1094 1100"
_MINI_VAL: Final = "103 916"
_LAST_SCENE: Final = 1110


def predefined_splits(held: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Scenes of nuScenes' splits by name, of those that a dataroot holds; every scene of no other split trains.

    The devkit knows parts of the training split besides.
    """
    val, test = _scenes(_VAL), _scenes(_TEST)
    train = [f"scene-{number:04}" for number in range(1, _LAST_SCENE + 1)]
    named = {
        "train": [scene for scene in train if scene not in {*val, *test}],
        "val": val,
        "test": test,
        "mini_train": _scenes(_MINI_TRAIN),
        "mini_val": _scenes(_MINI_VAL),
    }
    return {split: tuple(scene for scene in scenes if scene in held) for split, scenes in named.items()}


def _scenes(ranges: str) -> list[str]:
    """Names of scenes from numbers and ranges of numbers."""
    ends = [part.partition("-") for part in ranges.split()]
    return [f"scene-{number:04}" for first, _, last in ends for number in range(int(first), int(last or first) + 1)]
