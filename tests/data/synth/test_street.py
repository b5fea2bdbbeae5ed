import numpy as np
import pytest
import torch

from udx.data.synth.ground import road_coordinates
from udx.data.synth.street import EGO_FOOTPRINT_M, Road, Scene, make_scene
from udx.data.synth.tables import CATEGORIES
from udx.geometry.boxes import box_corners
from udx.geometry.se3 import inverse, transform_points

DURATION_S = 6.0


@pytest.fixture(scope="module", params=range(4))
def scene(request: pytest.FixtureRequest) -> Scene:
    return make_scene(np.random.default_rng(request.param), DURATION_S)


def footprints(scene: Scene, time_s: float) -> np.ndarray:
    """(A + 1, 4, 2) corners of all actors and of the ego, in the scene's frame."""
    sizes = [actor.model.size_lwh_m for actor in scene.actors] + [(*EGO_FOOTPRINT_M, 1.5)]
    poses = [*scene.actor_poses(time_s), scene.scene_T_ego(time_s)]
    corners = [box_corners(np.array([[0, 0, 0, *size, 0, 0, 0]]))[0, :4] for size in sizes]
    return np.array([transform_points(pose, box)[:, :2] for pose, box in zip(poses, corners, strict=True)])


def overlap(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two convex quadrilaterals overlap: no edge of either separates them."""
    for quad in (first, second):
        for start, end in zip(quad, np.roll(quad, -1, axis=0), strict=True):
            normal = np.array([end[1] - start[1], start[0] - end[0]])
            if (first @ normal).max() < (second @ normal).min() or (second @ normal).max() < (first @ normal).min():
                return False
    return True


def test_no_two_boxes_ever_touch(scene: Scene) -> None:
    for time_s in np.linspace(-0.1, DURATION_S, 9):
        quads = footprints(scene, time_s)
        centres = quads.mean(axis=1)
        for i in range(len(quads)):
            near = np.flatnonzero(np.linalg.norm(centres[i + 1 :] - centres[i], axis=1) < 20) + i + 1
            assert not [j for j in near if overlap(quads[i], quads[j])]


def test_all_classes_are_near_the_start(scene: Scene) -> None:
    ego = scene.scene_T_ego(0.0)[:2, 3]
    near = np.linalg.norm(scene.actor_poses(0.0)[:, :2, 3] - ego, axis=1) < 50
    assert {actor.model.category for actor, close in zip(scene.actors, near, strict=True) if close} == set(CATEGORIES)


def test_attributes_tell_the_truth(scene: Scene) -> None:
    speeds = np.linalg.norm(scene.actor_velocities(1.0), axis=1)
    for actor, speed in zip(scene.actors, speeds, strict=True):
        if actor.attribute in ("vehicle.moving", "pedestrian.moving", "cycle.with_rider"):
            assert speed > 0.3 or actor.attribute == "cycle.with_rider"
        else:
            assert speed < 1e-6


def test_movers_head_where_they_go(scene: Scene) -> None:
    velocity, poses = scene.actor_velocities(2.0), scene.actor_poses(2.0)
    moving = np.linalg.norm(velocity, axis=1) > 0.3
    heading = poses[moving, :2, 0]
    direction = velocity[moving] / np.linalg.norm(velocity[moving], axis=1, keepdims=True)
    np.testing.assert_allclose((heading * direction).sum(axis=1), 1.0, atol=1e-5)


def test_the_ego_pose_is_rigid_and_leans_less_than_a_degree(scene: Scene) -> None:
    for time_s in (0.0, 1.3):
        pose = scene.scene_T_ego(time_s)
        np.testing.assert_allclose(pose @ inverse(pose), np.eye(4), atol=1e-12)
        assert np.cos(np.deg2rad(1)) < pose[2, 2] < 1


@pytest.mark.parametrize("curvature", [1 / 150, -1 / 150, 1 / 1900])
def test_road_coordinates_invert_the_road(curvature: float) -> None:
    s, d = np.array([-70.0, 0.0, 35.0, 120.0]), np.array([-12.0, 3.4, 0.0, 9.0])
    x, y, _ = Road(curvature).to_scene(s, d).T
    found = road_coordinates(curvature, torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32))
    np.testing.assert_allclose(found[0].numpy(), s, atol=2e-3)
    np.testing.assert_allclose(found[1].numpy(), d, atol=2e-3)


def test_the_road_starts_along_x_and_bends_left_for_a_positive_curvature() -> None:
    here, there = Road(0.01).to_scene(np.array([0.0, 30.0]), np.array([0.0, 0.0]))
    np.testing.assert_allclose(here, [0, 0, 0], atol=1e-12)
    assert there[1] > 0
    np.testing.assert_allclose(there[2], 0.3)
