"""A street scene: a curved road, its traffic and furniture, and the path the ego vehicle drives.

Road coordinates: s runs along the road's centre line, d to the left of it, metres; traffic keeps right.
The scene's frame has its origin at s = 0 with x along the road; the ground is z = 0.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.random import Generator

from udx.data.synth import models
from udx.data.synth.models import Model
from udx.data.synth.solids import Solid, SolidArrays
from udx.geometry.arrays import FloatArray
from udx.geometry.se3 import yaw_rotation

LANES_M: Final = (-5.1, -1.7, 1.7, 5.1)
LANE_WIDTH_M: Final = 3.4
CYCLE_LANE_M: Final = 7.6
PARKING_M: Final = 9.4
KERB_M: Final = 10.6
PAVEMENT_END_M: Final = 15.0
EGO_LANE_M: Final = LANES_M[1]
MARGIN_M: Final = 75.0
"""Street beyond both ends of the ego's path."""

SHOWCASE_M: Final = (5.0, 28.0)
"""Where along the road one object of every class begins, so that the first keyframe shows them all."""

EGO_FOOTPRINT_M: Final = (5.0, 2.1)
MAX_SWAY_RAD: Final = 0.006


@dataclass(frozen=True, slots=True)
class Road:
    """A road of constant curvature, 1/m, positive to the left, never zero."""

    curvature: float

    def to_scene(self, s_m: FloatArray, d_m: FloatArray) -> FloatArray:
        """(…, 3): x, y, and the road's heading in radians."""
        radius, angle = 1 / self.curvature, s_m * self.curvature
        x = (radius - d_m) * np.sin(angle)
        y = radius - (radius - d_m) * np.cos(angle)
        return np.stack(np.broadcast_arrays(x, y, angle), axis=-1)

    def poses(self, s_m: FloatArray, d_m: FloatArray, yaw_rad: FloatArray) -> FloatArray:
        """(N, 4, 4): ``scene_T_object`` of objects on the ground, their yaw relative to the road's heading."""
        x, y, heading = self.to_scene(s_m, d_m).T
        cos, sin = np.cos(heading + yaw_rad), np.sin(heading + yaw_rad)
        poses = np.tile(np.eye(4), (len(s_m), 1, 1))
        poses[:, :2, 0] = np.stack([cos, sin], axis=-1)
        poses[:, :2, 1] = np.stack([-sin, cos], axis=-1)
        poses[:, :2, 3] = np.stack([x, y], axis=-1)
        return poses


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """How an object moves: from (s, d) at time 0, at constant rates along the road and across it.

    ``yaw_rad`` is its heading relative to the road's.
    """

    s_m: float
    d_m: float
    speed_s_mps: float = 0.0
    speed_d_mps: float = 0.0
    yaw_rad: float = 0.0

    def at(self, time_s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(s, d) at times."""
        return self.s_m + self.speed_s_mps * time_s, self.d_m + self.speed_d_mps * time_s


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Actor:
    """An annotated object: its model, its motion and its nuScenes attribute ("" for none)."""

    model: Model
    track: Track
    attribute: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lighting:
    """Daylight of a scene; colours are linear RGB."""

    sun_azimuth_rad: float
    sun_elevation_rad: float
    sun_colour: tuple[float, float, float]
    sky_colour: tuple[float, float, float]
    horizon_colour: tuple[float, float, float]
    haze_m: float
    exposure: float

    @property
    def to_sun(self) -> FloatArray:
        """Unit vector (3,) to the sun in the scene's frame."""
        cos = np.cos(self.sun_elevation_rad)
        return np.array(
            [cos * np.cos(self.sun_azimuth_rad), cos * np.sin(self.sun_azimuth_rad), np.sin(self.sun_elevation_rad)]
        )


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Scene:
    """Everything in one scene. ``solids.owner_S`` counts the actors first, then the fixed street."""

    road: Road
    ego: Track
    sway_phase_rad: float
    actors: tuple[Actor, ...]
    solids: SolidArrays
    fixed_poses_F44: FloatArray
    lighting: Lighting
    crossings_s_m: tuple[float, ...]
    texture_seed: int
    global_T_scene: FloatArray

    def extent_m(self, duration_s: float) -> tuple[float, float]:
        """Where along the road the street of a scene of this length begins and ends."""
        return -MARGIN_M, self.ego.speed_s_mps * duration_s + MARGIN_M

    def scene_T_ego(self, time_s: float) -> FloatArray:
        """4×4 pose of the ego vehicle, which leans a little as it drives."""
        s, d = self.ego.at(np.array([time_s]))
        pose = self.road.poses(s, d, np.array([self.ego.yaw_rad]))[0]
        sway = MAX_SWAY_RAD * np.sin(np.array([2.1, 1.3]) * time_s + self.sway_phase_rad)
        roll, pitch = (np.eye(4) for _ in range(2))
        roll[1:3, 1:3] = [[np.cos(sway[0]), -np.sin(sway[0])], [np.sin(sway[0]), np.cos(sway[0])]]
        pitch[:3:2, :3:2] = [[np.cos(sway[1]), np.sin(sway[1])], [-np.sin(sway[1]), np.cos(sway[1])]]
        leaning: FloatArray = pose @ pitch @ roll
        return leaning

    def poses(self, time_s: float) -> FloatArray:
        """(O, 4, 4): ``scene_T_object`` of all actors, then of the fixed street."""
        poses: FloatArray = np.concatenate([self.actor_poses(time_s), self.fixed_poses_F44])
        return poses

    def actor_poses(self, time_s: float) -> FloatArray:
        """(A, 4, 4): ``scene_T_object`` of the actors."""
        tracks = [actor.track for actor in self.actors]
        return self.road.poses(
            np.array([track.s_m + track.speed_s_mps * time_s for track in tracks]),
            np.array([track.d_m + track.speed_d_mps * time_s for track in tracks]),
            np.array([track.yaw_rad for track in tracks]),
        )

    def actor_velocities(self, time_s: float) -> FloatArray:
        """(A, 2): velocity of the actors in the scene's frame, m/s."""
        step = 1e-3
        later, earlier = self.actor_poses(time_s + step), self.actor_poses(time_s - step)
        velocity: FloatArray = (later[:, :2, 3] - earlier[:, :2, 3]) / (2 * step)
        return velocity


class _Street:
    """Collects actors whose footprints never touch during the scene."""

    def __init__(self, rng: Generator, ego: Track, duration_s: float) -> None:
        self.rng = rng
        self.ego = ego
        self.times_s = np.arange(-0.5, duration_s + 0.5, 0.1)
        self.start_m = -MARGIN_M
        self.end_m = ego.speed_s_mps * duration_s + MARGIN_M
        self.lane_speeds_mps = {lane: 0.0 if rng.random() < 0.2 else rng.uniform(3.0, 12.0) for lane in LANES_M}
        self.lane_speeds_mps[EGO_LANE_M] = ego.speed_s_mps
        self.actors: list[Actor] = []
        self._paths = [np.stack(ego.at(self.times_s))]
        self._halves = [np.array(EGO_FOOTPRINT_M) / 2 + 0.8]

    def add(self, model: Model, track: Track, attribute: str, gap_m: float = 0.35) -> bool:
        """Add an actor if it stays ``gap_m`` clear of all others."""
        length, width, _ = model.size_lwh_m
        cos, sin = abs(np.cos(track.yaw_rad)), abs(np.sin(track.yaw_rad))
        half = np.array([length * cos + width * sin, length * sin + width * cos]) / 2
        path = np.stack(np.broadcast_arrays(*track.at(self.times_s)))
        for other, other_half in zip(self._paths, self._halves, strict=True):
            apart = np.abs(path - other) > (half + other_half + gap_m)[:, None]
            if not apart.any(axis=0).all():
                return False
        self.actors.append(Actor(model=model, track=track, attribute=attribute))
        self._paths.append(path)
        self._halves.append(half)
        return True

    def anywhere(self) -> float:
        """A place along the street."""
        return float(self.rng.uniform(self.start_m, self.end_m))

    def near_path(self) -> float:
        """A place along the street that the ego comes close to."""
        return float(self.rng.uniform(self.start_m + 50, self.end_m - 35))


def make_scene(rng: Generator, duration_s: float) -> Scene:
    """Draw a scene that lasts from a little before 0 to ``duration_s``."""
    speed = rng.uniform(4.0, 11.0)
    ego = Track(s_m=0.0, d_m=EGO_LANE_M, speed_s_mps=speed)
    street = _Street(rng, ego, duration_s)
    length = street.end_m - street.start_m
    sharpest = min(1 / 120, 2.0 / length)
    road = Road(float(rng.choice([-1, 1]) * rng.uniform(1 / 2000, sharpest)))
    share = length / 170.0
    _add_roadworks(street, max(1, round(share)))
    _add_showcase(street)
    _add_traffic(street, share)
    _add_parked(street, share)
    _add_cyclists(street, share)
    crossings = tuple(street.near_path() for _ in range(max(1, round(share))))
    _add_pedestrians(street, share, crossings)
    fixed = _buildings(rng, street) + _furniture(rng, street)
    s, d, yaw = np.array([place for *place, _ in fixed]).T
    parts: list[tuple[Solid, ...]] = [actor.model.solids for actor in street.actors]
    heading = yaw_rotation(float(rng.uniform(-np.pi, np.pi)))
    return Scene(
        road=road,
        ego=ego,
        sway_phase_rad=float(rng.uniform(0, 6)),
        actors=tuple(street.actors),
        solids=SolidArrays.of([*parts, *(solids for *_, solids in fixed)]),
        fixed_poses_F44=road.poses(s, d, yaw),
        lighting=_lighting(rng),
        crossings_s_m=crossings,
        texture_seed=int(rng.integers(2**31)),
        global_T_scene=_on_the_map(road, heading, street),
    )


def _on_the_map(road: Road, heading: FloatArray, street: _Street) -> FloatArray:
    """Shift the turned scene so that its street has positive coordinates, as nuScenes' maps want."""
    s = np.linspace(street.start_m, street.end_m, 200)
    edges = np.concatenate([road.to_scene(s, np.full_like(s, d))[:, :2] for d in (-40.0, 40.0)])
    low = (edges @ heading[:2, :2].T).min(axis=0)
    placed = heading.copy()
    placed[:2, 3] = np.ceil(20.0 - low)
    return placed


def _add_roadworks(street: _Street, sites: int) -> None:
    """Construction vehicles in the parking lane behind barriers, with a row of cones on the traffic side."""
    rng = street.rng
    for site in range(sites):
        start = street.near_path() if site else rng.uniform(*SHOWCASE_M) - 3.0
        side = float(rng.choice([-1, 1]))
        for place in (0.0, 9.5)[: rng.integers(1, 3)]:
            yaw = float(rng.choice([0, np.pi]) + rng.uniform(-0.1, 0.1))
            track = Track(s_m=start + place, d_m=side * (PARKING_M - 0.2), yaw_rad=yaw)
            street.add(models.construction_vehicle(rng), track, "vehicle.parked")
        for row in np.arange(-7.0, 16.0, rng.uniform(2.6, 3.6)):
            track = Track(s_m=start + row, d_m=side * (7.2 + rng.uniform(-0.1, 0.1)), yaw_rad=rng.uniform(-1.5, 1.5))
            street.add(models.traffic_cone(rng), track, "")
        for end in (-6.0, 17.0):
            if rng.random() < 0.8:
                track = Track(s_m=start + end, d_m=side * 9.2, yaw_rad=rng.uniform(-0.1, 0.1))
                street.add(models.barrier(rng), track, "")
        for row in range(rng.integers(3, 7)):
            yaw = float(np.pi / 2 + rng.uniform(-0.05, 0.05))
            track = Track(s_m=start - 4.0 + row * 2.9, d_m=side * (KERB_M + 0.6), yaw_rad=yaw)
            street.add(models.barrier(rng), track, "", gap_m=0.05)


def _add_showcase(street: _Street) -> None:
    """One of every class that is not at the roadworks, close to where the ego starts.

    So the shortest scene, and a split of one scene, has all ten classes to evaluate.
    """
    for name in ("trailer", "bus", "truck", "car", "motorcycle", "bicycle", "pedestrian"):
        for _ in range(60):
            s = street.rng.uniform(*SHOWCASE_M)
            if name == "pedestrian":
                placed = _add_walker(street, s)
            elif name in ("bicycle", "motorcycle"):
                placed = _add_cyclist(street, name, s, float(street.rng.choice([-1, 1])))
            else:
                s = street.rng.uniform(-SHOWCASE_M[1], 1.2 * SHOWCASE_M[1])
                placed = _add_to_lane(street, name, s, float(street.rng.choice(LANES_M)))
            if placed:
                break


def _add_traffic(street: _Street, share: float) -> None:
    """Vehicles in the four lanes."""
    kinds = ["car"] * 4 + ["truck"] * 2 + ["bus"] * 2 + ["trailer"] * 2 + ["motorcycle"]
    for lane in LANES_M:
        for _ in range(round(5 * share)):
            _add_to_lane(street, kinds[street.rng.integers(len(kinds))], street.anywhere(), lane)


def _add_to_lane(street: _Street, name: str, s_m: float, lane_m: float) -> bool:
    """A vehicle in a lane at the lane's speed; a trailer behind its lorry."""
    rng, speed, forward = street.rng, street.lane_speeds_mps[lane_m], lane_m < 0
    track = Track(
        s_m=s_m,
        d_m=lane_m + rng.uniform(-0.12, 0.12),
        speed_s_mps=speed if forward else -speed,
        yaw_rad=0.0 if forward else np.pi,
    )
    attribute = "cycle.with_rider" if name == "motorcycle" else "vehicle.moving" if speed else "vehicle.stopped"
    model = models.MODELS[name](rng)
    placed = street.add(model, track, attribute, gap_m=1.5)
    if placed and name == "trailer":
        lorry = models.truck(rng)
        ahead = (model.size_lwh_m[0] + lorry.size_lwh_m[0]) / 2 + 0.6
        ahead_track = replace(track, s_m=s_m + (ahead if forward else -ahead))
        street.add(lorry, ahead_track, attribute)
    return placed


def _add_parked(street: _Street, share: float) -> None:
    """Vehicles parked along both kerbs."""
    rng = street.rng
    kinds = ["car"] * 9 + ["truck"] * 2 + ["bus"] + ["trailer"] * 2 + ["motorcycle", "bicycle", "construction_vehicle"]
    for _ in range(round(20 * share)):
        side, name = float(rng.choice([-1, 1])), kinds[rng.integers(len(kinds))]
        yaw = (0.0 if side < 0 else np.pi) + rng.uniform(-0.03, 0.03)
        track = Track(s_m=street.anywhere(), d_m=side * (PARKING_M + rng.uniform(-0.1, 0.1)), yaw_rad=yaw)
        if name in ("motorcycle", "bicycle"):
            maker = models.motorcycle if name == "motorcycle" else models.bicycle
            street.add(maker(rng, with_rider=False), track, "cycle.without_rider", gap_m=0.5)
        else:
            street.add(models.MODELS[name](rng), track, "vehicle.parked", gap_m=0.5)


def _add_cyclists(street: _Street, share: float) -> None:
    """Bicycles and motorcycles in the cycle lanes."""
    rng = street.rng
    for side in (-1.0, 1.0):
        for name in ["bicycle"] * round(2 * share + rng.random()) + ["motorcycle"] * round(1.2 * share + rng.random()):
            _add_cyclist(street, name, street.near_path(), side)


def _add_cyclist(street: _Street, name: str, s_m: float, side: float) -> bool:
    rng = street.rng
    speed = -side * (rng.uniform(2.5, 6.0) if name == "bicycle" else rng.uniform(4.0, 10.0))
    yaw = 0.0 if speed > 0 else np.pi
    track = Track(s_m=s_m, d_m=side * CYCLE_LANE_M, speed_s_mps=speed, yaw_rad=yaw)
    return street.add(models.MODELS[name](rng), track, "cycle.with_rider")


def _add_walker(street: _Street, s_m: float) -> bool:
    """Somebody who stands or walks on a pavement."""
    rng = street.rng
    side, walks, forward = float(rng.choice([-1, 1])), rng.random() < 0.75, rng.random() < 0.5
    yaw = (0.0 if forward else np.pi) if walks else rng.uniform(-np.pi, np.pi)
    track = Track(
        s_m=s_m,
        d_m=side * rng.uniform(KERB_M + 1.2, PAVEMENT_END_M - 0.9),
        speed_s_mps=(1 if forward else -1) * rng.uniform(0.7, 1.8) if walks else 0.0,
        yaw_rad=float(yaw),
    )
    return street.add(models.pedestrian(rng), track, "pedestrian.moving" if walks else "pedestrian.standing")


def _add_pedestrians(street: _Street, share: float, crossings: tuple[float, ...]) -> None:
    """People on the pavements, and some crossing the road."""
    rng = street.rng
    for _ in range(round(13 * share)):
        _add_walker(street, street.anywhere())
    for crossing in crossings:
        for _ in range(3):
            direction = float(rng.choice([-1, 1]))
            track = Track(
                s_m=crossing + rng.uniform(-1.2, 1.2),
                d_m=-direction * rng.uniform(2.0, KERB_M),
                speed_d_mps=direction * rng.uniform(0.8, 1.6),
                yaw_rad=direction * np.pi / 2,
            )
            street.add(models.pedestrian(rng), track, "pedestrian.moving")


Placed = tuple[float, float, float, tuple[Solid, ...]]


def _buildings(rng: Generator, street: _Street) -> list[Placed]:
    """Rows of buildings on both sides, their long side along the road."""
    placed: list[Placed] = []
    for side in (-1.0, 1.0):
        s = street.start_m - 45.0
        while s < street.end_m + 45.0:
            length, depth = rng.uniform(11.0, 26.0), rng.uniform(9.0, 13.0)
            setback = 16.5 + rng.uniform(0.0, 3.0) + length**2 / 900
            solids = models.building(rng, length, depth)
            placed.append((s + length / 2, side * (setback + depth / 2), 0.0, solids))
            s += length * 1.12 + rng.uniform(1.0, 9.0)
    return placed


def _furniture(rng: Generator, street: _Street) -> list[Placed]:
    """Trees along the buildings and street lamps along the kerbs."""
    placed: list[Placed] = []
    for side in (-1.0, 1.0):
        for s in np.arange(street.start_m, street.end_m, 11.0):
            if rng.random() < 0.6:
                at = s + rng.uniform(-3, 3), side * (PAVEMENT_END_M + 0.2)
                placed.append((*at, rng.uniform(-np.pi, np.pi), models.tree(rng)))
        for s in np.arange(street.start_m, street.end_m, 32.0):
            yaw = 0.0 if side > 0 else np.pi
            placed.append((s + 7 * side, side * (KERB_M + 0.22), yaw, models.street_lamp()))
    return placed


def _lighting(rng: Generator) -> Lighting:
    """Clear noon, low warm sun, or overcast."""
    azimuth = float(rng.uniform(-np.pi, np.pi))
    weather = rng.integers(3)
    elevation = np.deg2rad((rng.uniform(42, 62), rng.uniform(24, 34), rng.uniform(50, 65))[weather])
    sun = ((2.6, 2.45, 2.2), (2.5, 1.9, 1.25), (0.75, 0.75, 0.75))[weather]
    sky = ((0.28, 0.45, 0.85), (0.34, 0.44, 0.7), (0.72, 0.75, 0.8))[weather]
    horizon = ((0.72, 0.8, 0.9), (0.95, 0.75, 0.55), (0.8, 0.82, 0.84))[weather]
    return Lighting(
        sun_azimuth_rad=azimuth,
        sun_elevation_rad=float(elevation),
        sun_colour=sun,
        sky_colour=sky,
        horizon_colour=horizon,
        haze_m=float(rng.uniform(250, 700) if weather < 2 else rng.uniform(130, 350)),
        exposure=float(rng.uniform(0.85, 1.3)),
    )
