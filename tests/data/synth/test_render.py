"""What the sensors record agrees with where things are."""

from dataclasses import replace

import numpy as np
import pytest

from udx.data.synth.models import car, pedestrian
from udx.data.synth.render import Moments, Renderer, Rendering
from udx.data.synth.rig import CAMERA_MOUNTS, LIDAR_MOUNT
from udx.data.synth.solids import Primitive, Solid, SolidArrays
from udx.data.synth.street import Actor, Scene, Track, make_scene
from udx.geometry.boxes import box_corners, points_in_box
from udx.geometry.se3 import inverse, transform_points

MOMENTS = Moments(lidar_s=(1.0, 0.95), cameras_s=tuple(1.0 + mount.delay_s for mount in CAMERA_MOUNTS))
WIDTH_PX = 240


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(np.random.default_rng(4), 2.0)


@pytest.fixture(scope="module")
def rendering(scene: Scene) -> Rendering:
    return Renderer(scene, image_width_px=WIDTH_PX, sweeps=1).render(MOMENTS, noise_seed=0)


def box_of(actor: Actor) -> np.ndarray:
    length, width, height = actor.model.size_lwh_m
    return np.array([0, 0, height / 2, length, width, height, 0, 0, 0])


def to_scene(scene: Scene, points: np.ndarray, time_s: float) -> np.ndarray:
    return transform_points(scene.scene_T_ego(time_s) @ LIDAR_MOUNT.ego_T_sensor, points[:, :3].astype(np.float64))


def staged(scene: Scene, *tracks: Track, wall_m: float | None = None) -> Scene:
    """The scene emptied but for one car per track and, perhaps, a wall across the road."""
    models = [car(np.random.default_rng(7)) for _ in tracks]
    actors = tuple(
        Actor(model=model, track=track, attribute="vehicle.parked") for model, track in zip(models, tracks, strict=True)
    )
    walls = [] if wall_m is None else [(Solid(Primitive.BLOCK, (wall_m, 0, 5), (0.2, 40, 5), (0.5, 0.5, 0.5)),)]
    return replace(
        scene,
        ego=Track(s_m=0.0, d_m=-1.7),
        actors=actors,
        solids=SolidArrays.of([*(model.solids for model in models), *walls]),
        fixed_poses_F44=np.tile(np.eye(4), (len(walls), 1, 1)),
    )


def test_points_on_an_actor_lie_in_its_box(scene: Scene, rendering: Rendering) -> None:
    points = to_scene(scene, rendering.sweeps[0], MOMENTS.lidar_s[0])
    on_actors = 0
    for number, (actor, pose) in enumerate(zip(scene.actors, scene.actor_poses(MOMENTS.lidar_s[0]), strict=True)):
        mine = points[rendering.point_actors == number]
        assert points_in_box(transform_points(inverse(pose), mine), box_of(actor), margin_m=0.07).all()
        on_actors += len(mine)
    assert on_actors > 1000


def test_pixels_of_an_actor_lie_inside_its_projected_box(scene: Scene, rendering: Rendering) -> None:
    checked = 0
    for view, mount in enumerate(CAMERA_MOUNTS):
        time_s = MOMENTS.cameras_s[view]
        cam_T_scene = inverse(scene.scene_T_ego(time_s) @ mount.ego_T_sensor)
        for number, (actor, pose) in enumerate(zip(scene.actors, scene.actor_poses(time_s), strict=True)):
            rows, columns = np.nonzero(rendering.actor_NHW[view] == number)
            corners = transform_points(cam_T_scene @ pose, box_corners(box_of(actor)[None])[0])
            if not len(rows) or corners[:, 2].min() < 0.5:
                continue
            u, v, _ = (corners @ mount.intrinsic(WIDTH_PX).T / corners[:, 2:]).T
            assert u.min() - 0.01 <= columns.min() and columns.max() <= u.max() + 0.01
            assert v.min() - 0.01 <= rows.min() and rows.max() <= v.max() + 0.01
            checked += 1
    assert checked > 15


def test_the_ground_is_flat_and_on_the_ground(scene: Scene, rendering: Rendering) -> None:
    points = to_scene(scene, rendering.sweeps[0], MOMENTS.lidar_s[0])
    near = (np.abs(points[:, :2] - scene.scene_T_ego(1.0)[:2, 3]).max(axis=1) < 6) & (rendering.point_actors < 0)
    assert near.sum() > 1000
    low = points[near & (points[:, 2] < 1.0)]
    assert abs(np.median(low[:, 2])) < 0.005
    assert np.abs(low[:, 2]).max() < 0.08


def test_a_static_point_coincides_over_sweeps(scene: Scene, rendering: Rendering) -> None:
    """Walls seen by two sweeps stand in one place, though the ego drove on between them."""
    first, second = (
        to_scene(scene, points, time_s) for points, time_s in zip(rendering.sweeps, MOMENTS.lidar_s, strict=True)
    )
    assert np.linalg.norm(scene.scene_T_ego(1.0)[:3, 3] - scene.scene_T_ego(0.95)[:3, 3]) > 0.15
    lots = scene.fixed_poses_F44
    distances = []
    for row, pose in enumerate(lots):
        solid = np.flatnonzero(scene.solids.owner_S == len(scene.actors) + row)[0]
        half = scene.solids.half_S3[solid]
        if half[1] < 3:  # not a building
            continue
        for points in (first, second):
            local = transform_points(inverse(pose), points)
            wall = (abs(abs(local[:, 1]) - half[1]) < 0.5) & (abs(local[:, 0]) < half[0] - 1) & (local[:, 2] > 0.5)
            distances.append((np.abs(local[wall, 1]) - half[1])[local[wall, 2] < 2 * half[2] - 0.5])
    gaps = np.concatenate(distances)
    assert len(gaps) > 500
    assert np.percentile(np.abs(gaps), 90) < 0.04


def test_nothing_behind_a_wall_is_seen(scene: Scene) -> None:
    ahead = Track(s_m=20.0, d_m=-1.7)
    still = Moments(lidar_s=(0.0,), cameras_s=(0.0,) * 6)
    seen = Renderer(staged(scene, ahead), image_width_px=WIDTH_PX, sweeps=0).render(still, 0)
    hidden = Renderer(staged(scene, ahead, wall_m=12.0), image_width_px=WIDTH_PX, sweeps=0).render(still, 0)
    assert seen.pixels_A[0] == seen.covered_A[0] > 100
    assert (seen.point_actors == 0).sum() > 30
    assert hidden.pixels_A[0] == 0 < hidden.covered_A[0] == seen.covered_A[0]
    assert (hidden.point_actors == 0).sum() == 0


def test_a_car_in_front_hides_part_of_the_one_behind(scene: Scene) -> None:
    still = Moments(lidar_s=(0.0,), cameras_s=(0.0,) * 6)
    tracks = Track(s_m=12.0, d_m=-1.7), Track(s_m=19.0, d_m=-0.4)
    both = Renderer(staged(scene, *tracks), image_width_px=WIDTH_PX, sweeps=0).render(still, 0)
    assert both.pixels_A[0] == both.covered_A[0]
    assert 0.1 * both.covered_A[1] < both.pixels_A[1] < 0.9 * both.covered_A[1]


def test_a_car_throws_a_shadow_away_from_the_sun(scene: Scene) -> None:
    lighting = replace(scene.lighting, sun_azimuth_rad=np.pi / 2, sun_elevation_rad=0.7, sun_colour=(2.5, 2.5, 2.5))
    still = Moments(lidar_s=(0.0,), cameras_s=(0.0,) * 6)
    pair = []
    for tracks in ((), (Track(s_m=14.0, d_m=-1.7),)):
        stage = replace(staged(scene, *tracks, wall_m=-90.0), lighting=lighting)
        pair.append(Renderer(stage, image_width_px=WIDTH_PX, sweeps=0).render(still, 0))
    without, with_car = (each.images_NHW3[0].astype(float).mean(axis=-1) for each in pair)
    place, _ = scene.road.to_scene(np.array([14.0, 14.0]), np.array([-1.7, -1.7]))
    cam_T_scene = inverse(staged(scene).scene_T_ego(0.0) @ CAMERA_MOUNTS[0].ego_T_sensor)
    change = []
    for side in (1.4, -1.4):  # ground to the left of the car, where the sun stands, and to the right
        point = transform_points(cam_T_scene, np.array([[place[0], place[1] + side, 0.0]]))[0]
        u, v, _ = np.round(CAMERA_MOUNTS[0].intrinsic(WIDTH_PX) @ point / point[2]).astype(int)
        assert pair[1].actor_NHW[0, v, u] == -1
        change.append(with_car[v, u] / without[v, u])
    assert change[0] > 0.8
    assert change[1] < 0.7


def test_lidar_tells_materials_and_rings_apart(rendering: Rendering) -> None:
    points = rendering.sweeps[0]
    assert set(points[:, 4]) == set(range(32))
    assert 0 <= points[:, 3].min() < 10 and 60 < points[:, 3].max() <= 255
    elevation = np.rad2deg(np.arcsin(points[:, 2] / np.linalg.norm(points[:, :3], axis=1)))
    np.testing.assert_allclose(elevation, -30.67 + points[:, 4] * 4 / 3, atol=1e-3)


def test_people_look_like_people(scene: Scene) -> None:
    """A pedestrian's silhouette is taller than wide and narrows towards the head."""
    model = pedestrian(np.random.default_rng(0))
    actor = Actor(model=model, track=Track(s_m=8.0, d_m=-1.7, yaw_rad=1.0), attribute="pedestrian.standing")
    stage = replace(staged(scene), actors=(actor,), solids=SolidArrays.of([model.solids]))
    still = Moments(lidar_s=(0.0,), cameras_s=(0.0,) * 6)
    shape = Renderer(stage, image_width_px=800, sweeps=0).render(still, 0).actor_NHW[0] == 0
    rows = shape.sum(axis=1)[shape.any(axis=1)]
    assert len(rows) > 1.5 * rows.max()
    assert rows[: len(rows) // 8].mean() < 0.6 * rows.max()


def test_the_same_seed_gives_the_same_keyframe(scene: Scene, rendering: Rendering) -> None:
    renderer = Renderer(scene, image_width_px=WIDTH_PX, sweeps=1)
    again, other = renderer.render(MOMENTS, noise_seed=0), renderer.render(MOMENTS, noise_seed=1)
    np.testing.assert_array_equal(again.images_NHW3, rendering.images_NHW3)
    np.testing.assert_array_equal(again.sweeps[0], rendering.sweeps[0])
    assert (other.images_NHW3 != rendering.images_NHW3).any()
