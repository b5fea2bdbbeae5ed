"""The caster against closed forms and against testing every ray with every solid."""

import numpy as np
import pytest
import torch

from udx.data.synth.cast import Bundle, Pinhole, Posed, Spinning, View, cast
from udx.data.synth.solids import Primitive, Solid, SolidArrays, turned

CPU = torch.device("cpu")
CAMERA = Pinhole((25.0, 25.0), (19.5, 14.5), (30, 40))
LIDAR = Spinning(-0.5, 0.055, (18, 100))
LOOKS_ALONG_X = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def view(lattice: Pinhole | Spinning, pose: np.ndarray, objects: int) -> View:
    return View(lattice, pose, np.tile(np.eye(4), (objects, 1, 1)))


def random_solids(seed: int, count: int) -> list[Solid]:
    rng = np.random.default_rng(seed)
    solids = []
    for _ in range(count):
        primitive = Primitive(int(rng.integers(3)))
        taper = tuple(rng.uniform(0, 0.8, 3)) if primitive is not Primitive.BALL else (0.0, 0.0, 0.0)
        centre = tuple(rng.uniform(-12, 12, 3) * [1, 1, 0.3])
        solid = Solid(primitive, centre, tuple(rng.uniform(0.2, 3.0, 3)), (0, 0, 0), taper=taper)
        solids.append(turned(solid, *rng.uniform(-3, 3, 3)))
    return solids


def march(solid: Solid, origin: np.ndarray, directions: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """First step at which each ray is inside the solid, by the definition of the primitives; inf for none."""
    points = origin + directions[:, None] * steps[:, None] - np.array(solid.centre_m)
    x, y, z = np.moveaxis(points @ solid.rotation_33 / np.array(solid.half_m), -1, 0)
    front, rear, side = (taper * (z + 1) / 2 for taper in solid.taper)
    if solid.primitive is Primitive.BALL:
        inside = x * x + y * y + z * z <= 1
    elif solid.primitive is Primitive.ROUND:
        inside = (np.hypot(x, y) <= 1 - front) & (abs(z) <= 1)
    else:
        inside = (x <= 1 - front) & (-x <= 1 - rear) & (abs(y) <= 1 - side) & (abs(z) <= 1)
    return np.where(inside.any(axis=1), steps[inside.argmax(axis=1)], np.inf)


@pytest.mark.parametrize("lattice", [CAMERA, LIDAR], ids=["camera", "lidar"])
@pytest.mark.parametrize("seed", range(6))
def test_windows_lose_no_hit_and_distances_are_right(lattice: Pinhole | Spinning, seed: int) -> None:
    solids = random_solids(seed, 8)
    pose = LOOKS_ALONG_X if isinstance(lattice, Pinhole) else np.eye(4)
    bundle = Bundle([lattice], CPU)
    hits = cast(bundle, Posed.of(SolidArrays.of([[solid] for solid in solids]), [view(lattice, pose, 8)]))
    directions = lattice.directions() @ pose[:3, :3].T
    steps = np.arange(0.0, 20.0, 0.03)
    outside = [solid for solid in solids if np.isinf(march(solid, pose[:3, 3], directions[:1], steps[:11]))[0]]
    marched = np.stack([march(solid, pose[:3, 3], directions, steps) for solid in outside])
    expected = marched.min(axis=0)
    found = hits.distance_N.numpy()
    met = np.isfinite(expected)
    assert met.sum() > 50
    agree = np.abs(found[met] - expected[met]) < 0.04
    assert agree.mean() > 0.97  # steps of 3 cm jump over corners that the caster meets
    assert np.isfinite(found[met]).all()


def test_the_nearest_of_two_walls_wins_and_the_hidden_one_is_still_covered() -> None:
    walls = [Solid(Primitive.BLOCK, (x, 0.0, 0.0), (0.1, 50.0, 50.0), (0, 0, 0)) for x in (8.0, 5.0)]
    posed = Posed.of(SolidArrays.of([[wall] for wall in walls]), [view(CAMERA, LOOKS_ALONG_X, 2)])
    bundle = Bundle([CAMERA], CPU)
    hits = cast(bundle, posed, covered_owners=2, covered_rays=bundle.num_rays)
    assert (hits.solid_N == 1).all()
    forward = CAMERA.directions()[:, 2]
    np.testing.assert_allclose(hits.distance_N.numpy(), 4.9 / forward, rtol=1e-5)
    owners = torch.bincount(hits.covered // bundle.num_rays, minlength=2)
    assert owners.tolist() == [bundle.num_rays, bundle.num_rays]


def test_an_object_moves_between_views() -> None:
    ball = Solid(Primitive.BALL, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0, 0, 0))
    moved = np.tile(np.eye(4), (1, 1, 1))
    moved[0, 0, 3] = 10.0
    later = moved.copy()
    later[0, 0, 3] = 12.0
    odd = Pinhole((40.0, 40.0), (32.0, 24.0), (49, 65))
    views = [View(odd, LOOKS_ALONG_X, moved), View(odd, LOOKS_ALONG_X, later)]
    bundle = Bundle([odd, odd], CPU)
    distance = cast(bundle, Posed.of(SolidArrays.of([[ball]]), views)).distance_N.view(2, 49, 65)
    np.testing.assert_allclose(distance[:, 24, 32].numpy(), [9.0, 11.0], rtol=1e-5)


def test_nothing_to_hit() -> None:
    empty = SolidArrays.of([])
    bundle = Bundle([CAMERA], CPU)
    hits = cast(bundle, Posed.of(empty, [view(CAMERA, LOOKS_ALONG_X, 0)]))
    assert (hits.solid_N == -1).all()
    assert torch.isinf(hits.distance_N).all()
