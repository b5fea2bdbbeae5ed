"""One keyframe of the synthetic world: six images, LiDAR sweeps, and how much of each actor was seen.

Legend: N rays, A actors, V views.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from udx.data.synth.cast import Bundle, Hits, Pinhole, Posed, Spinning, View, cast
from udx.data.synth.ground import ground_surface, noise_texture
from udx.data.synth.rig import (
    CAMERA_MOUNTS,
    LIDAR_AZIMUTHS,
    LIDAR_BEAM_STEP_RAD,
    LIDAR_BEAMS,
    LIDAR_LOWEST_RAD,
    LIDAR_MOUNT,
    LIDAR_RANGE_M,
    image_height_px,
)
from udx.data.synth.shade import (
    Contacts,
    DepthMap,
    Light,
    contacts,
    far_eye,
    ground_colour,
    ground_distance,
    open_sky_map,
    photograph,
    ray_origins,
    reflectance_of,
    scene_directions,
    sky_colour,
    solid_colour,
    through_haze,
)
from udx.data.synth.street import Scene
from udx.geometry.arrays import ByteArray, Float32Array, FloatArray
from udx.geometry.se3 import inverse

SHADOW_CELL_M: Final = 0.18
SHADOW_REACH_M: Final = 55.0
ZENITH_CELL_M: Final = 0.25
ZENITH_REACH_M: Final = 40.0
CHUNK_RAYS: Final = 1 << 18
"""Rays shaded at once: bounds the memory that large images take."""

RANGE_NOISE_M: Final = 0.012
WEAKEST_RETURN: Final = 2e-4
"""Intensity × cosine of incidence / distance², below which no echo comes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """When the sensors of one keyframe fire, seconds in the scene's time; the keyframe's LiDAR comes first."""

    lidar_s: tuple[float, ...]
    cameras_s: tuple[float, ...]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Rendering:
    """What the sensors of one keyframe recorded.

    ``images_NHW3`` stand in the order of ``CAMERA_MOUNTS``; every sweep is (M, 5): x, y, z in the LiDAR's
    frame, intensity 0 to 255, ring. ``pixels_A`` counts the pixels that show each actor, ``covered_A`` those
    that would if nothing stood in front. ``actor_NHW`` and ``point_actors`` name the actor of every pixel
    and of every point of the keyframe's sweep, −1 for none.
    """

    images_NHW3: ByteArray
    sweeps: tuple[Float32Array, ...]
    pixels_A: NDArray[np.int64]
    covered_A: NDArray[np.int64]
    actor_NHW: NDArray[np.int64]
    point_actors: NDArray[np.int64]


class Renderer:
    """Renders keyframes of one scene."""

    def __init__(self, scene: Scene, *, image_width_px: int, sweeps: int, device: str = "cpu") -> None:
        """Lay out the rays: six cameras, ``1 + sweeps`` LiDAR turns, the sun, the zenith."""
        self.scene = scene
        self.device = torch.device(device)
        self.image_shape = (image_height_px(image_width_px), image_width_px)
        cameras = [_camera(mount.intrinsic(image_width_px), self.image_shape) for mount in CAMERA_MOUNTS]
        lidar = Spinning(LIDAR_LOWEST_RAD, LIDAR_BEAM_STEP_RAD, (LIDAR_BEAMS, LIDAR_AZIMUTHS))
        self.to_sun = scene.lighting.to_sun
        sun, _ = far_eye(self.to_sun, np.zeros(3), SHADOW_CELL_M, SHADOW_REACH_M)
        zenith, _ = far_eye(np.array([0.0, 0.0, 1.0]), np.zeros(3), ZENITH_CELL_M, ZENITH_REACH_M)
        self.bundle = Bundle([*cameras, *[lidar] * (1 + sweeps), sun, zenith], self.device)
        self.noise = torch.tensor(noise_texture(scene.texture_seed), dtype=torch.float32, device=self.device)
        self.reflectance_S = reflectance_of(scene.solids, self.device)
        self.owner_S = torch.tensor(scene.solids.owner_S, device=self.device)

    def render(self, moments: Moments, noise_seed: int) -> Rendering:
        """Render one keyframe."""
        views = self._views(moments)
        posed = Posed.of(self.scene.solids, views)
        camera_rays = len(CAMERA_MOUNTS) * self.image_shape[0] * self.image_shape[1]
        hits = cast(self.bundle, posed, len(self.scene.actors), camera_rays)
        directions = scene_directions(self.bundle, posed)
        ground = ground_distance(self.bundle, posed, directions)
        light = self._light(views, posed, hits)
        random = torch.Generator(self.device).manual_seed(noise_seed)
        frame = _Frame(posed, hits, directions, ground)
        images = self._photographs(frame, light, camera_rays, random)
        sweeps = [self._sweep(frame, view, random) for view in self._lidar_views()]
        owners = self._owners(hits, slice(0, camera_rays))
        actors = len(self.scene.actors)
        return Rendering(
            images_NHW3=images,
            sweeps=tuple(points for points, _ in sweeps),
            pixels_A=torch.bincount(owners[owners >= 0], minlength=actors).cpu().numpy(),
            covered_A=torch.bincount(hits.covered // self.bundle.num_rays, minlength=actors).cpu().numpy(),
            actor_NHW=owners.view(-1, *self.image_shape).cpu().numpy(),
            point_actors=sweeps[0][1],
        )

    def _lidar_views(self) -> range:
        return range(len(CAMERA_MOUNTS), len(self.bundle.lattices) - 2)

    def _views(self, moments: Moments) -> list[View]:
        """Place every sensor, the sun and the zenith."""
        scene, lattices = self.scene, self.bundle.lattices
        mounts = [*CAMERA_MOUNTS, *[LIDAR_MOUNT] * len(moments.lidar_s)]
        times = [*moments.cameras_s, *moments.lidar_s]
        views = [
            View(lattice, scene.scene_T_ego(time) @ mount.ego_T_sensor, scene.poses(time))
            for lattice, mount, time in zip(lattices[:-2], mounts, times, strict=True)
        ]
        now = moments.lidar_s[0]
        focus = scene.scene_T_ego(now)[:3, 3]
        for lattice, eye in zip(lattices[-2:], (self.to_sun, np.array([0.0, 0.0, 1.0])), strict=True):
            _, pose = far_eye(eye, focus, 1.0, 1.0)
            views.append(View(lattice, pose, scene.poses(now)))
        return views

    def _light(self, views: list[View], posed: Posed, hits: Hits) -> Light:
        maps = []
        for view, rays in list(zip(views, self.bundle.slices(), strict=True))[-2:]:
            assert isinstance(view.lattice, Pinhole)
            depth = hits.distance_N[rays].view(view.lattice.shape)
            maps.append(DepthMap(view.lattice, inverse(view.scene_T_sensor), depth))
            last = self.bundle.sensor_directions_3N[2, rays].view(view.lattice.shape)
        sun, zenith = maps
        open_share = open_sky_map(zenith.depth_HW * last)
        return Light(self.scene.lighting, sun, replace(zenith, depth_HW=open_share), self.noise)

    def _owners(self, hits: Hits, rays: slice | torch.Tensor) -> torch.Tensor:
        """Actor that each ray meets, −1 for none and for the fixed street."""
        solid = hits.solid_N[rays]
        owner = self.owner_S[solid.clamp_min(0)]
        return torch.where((solid >= 0) & (owner < len(self.scene.actors)), owner, -1)

    def _photographs(self, frame: "_Frame", light: Light, rays: int, random: torch.Generator) -> ByteArray:
        on_solid = frame.hits.distance_N[:rays] < frame.ground_N[:rays]
        on_ground = ~on_solid & (frame.ground_N[:rays] < torch.inf)
        radiance = torch.empty(rays, 3, device=self.device)
        for kind, colour_of in (
            (on_solid, self._solid_radiance),
            (on_ground, self._ground_radiance),
            (~(on_solid | on_ground), self._sky_radiance),
        ):
            for ray in torch.nonzero(kind).squeeze(1).split(CHUNK_RAYS):
                radiance[ray] = colour_of(frame, light, ray)
        soft = _soften(radiance.view(-1, *self.image_shape, 3))
        noise = torch.randn(soft.shape, generator=random, device=self.device)
        image: ByteArray = photograph(soft, noise, light.lighting.exposure).cpu().numpy()
        return image

    def _solid_radiance(self, frame: "_Frame", light: Light, ray: torch.Tensor) -> torch.Tensor:
        seen = contacts(self.bundle, frame.posed, frame.hits, ray, frame.directions_N3)
        seen = self._at_the_maps_moment(seen, frame.posed)
        colour = solid_colour(light, self.scene.solids, seen, frame.directions_N3[ray])
        return through_haze(light, colour, seen.distance_M)

    def _ground_radiance(self, frame: "_Frame", light: Light, ray: torch.Tensor) -> torch.Tensor:
        points, distance = self._ground_points(frame, ray)
        return through_haze(light, ground_colour(light, self.scene, points, distance), distance)

    def _sky_radiance(self, frame: "_Frame", light: Light, ray: torch.Tensor) -> torch.Tensor:
        return sky_colour(light, frame.directions_N3[ray])

    def _ground_points(self, frame: "_Frame", ray: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Points (M, 3) of the scene where rays meet the ground, and their distances."""
        distance = frame.ground_N[ray]
        origins = ray_origins(self.bundle, frame.posed)[self.bundle.view_N[ray]]
        return origins + frame.directions_N3[ray] * distance[:, None], distance

    def _at_the_maps_moment(self, seen: Contacts, posed: Posed) -> Contacts:
        """Shift hits on movers to where they are when the shadow map is taken, a few hundredths of a second later."""
        places = np.array([view.scene_T_object_O44[:, :3, 3] for view in posed.views])
        shift = torch.tensor(places[-1] - places, dtype=torch.float32, device=self.device)
        moved = shift[self.bundle.view_N[seen.ray_M], self.owner_S[seen.solid_M]]
        return replace(seen, point_M3=seen.point_M3 + moved)

    def _sweep(self, frame: "_Frame", view: int, random: torch.Generator) -> tuple[Float32Array, NDArray[np.int64]]:
        """Points (M, 5) of one LiDAR turn in firing order, and the actor of each."""
        start, stop = (int(edge) for edge in self.bundle.start[view : view + 2])
        rays = torch.arange(start, stop, device=self.device).view(LIDAR_BEAMS, -1).T.reshape(-1)
        distance = torch.minimum(frame.hits.distance_N, frame.ground_N)[rays]
        intensity, cosine = self._echo(frame, rays)
        luck = torch.rand(len(rays), generator=random, device=self.device)
        jitter = torch.randn(len(rays), generator=random, device=self.device)
        strength = intensity * cosine / distance.square()
        kept = (distance < LIDAR_RANGE_M) & (strength * (0.5 + luck) > WEAKEST_RETURN) & (luck > 0.012)
        measured = distance + jitter * RANGE_NOISE_M
        directions = self.bundle.sensor_directions_3N[:, rays]
        ring = torch.arange(LIDAR_BEAMS, device=self.device).repeat(len(rays) // LIDAR_BEAMS)
        seen = (intensity * (0.35 + 0.65 * cosine) * (0.85 + 0.3 * luck)).round().clamp(0, 255)
        columns = torch.stack([*(directions * measured), seen, ring.to(torch.float32)], dim=1)
        owners = self._owners(frame.hits, rays)
        owners = torch.where(frame.hits.distance_N[rays] < frame.ground_N[rays], owners, -1)
        return columns[kept].cpu().numpy(), owners[kept].cpu().numpy()

    def _echo(self, frame: "_Frame", rays: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Intensity of a perpendicular hit, and the cosine of incidence, of some rays."""
        intensity = torch.zeros(len(rays), device=self.device)
        cosine = torch.zeros(len(rays), device=self.device)
        on_solid = frame.hits.distance_N[rays] < frame.ground_N[rays]
        index = torch.nonzero(on_solid).squeeze(1)
        seen = contacts(self.bundle, frame.posed, frame.hits, rays[index], frame.directions_N3)
        intensity[index] = self.reflectance_S[seen.solid_M]
        cosine[index] = (frame.directions_N3[rays[index]] * seen.normal_M3).sum(1).abs()
        index = torch.nonzero(~on_solid & (frame.ground_N[rays] < LIDAR_RANGE_M)).squeeze(1)
        ray = rays[index]
        points, distance = self._ground_points(frame, ray)
        albedo, paint = ground_surface(self.scene, self.noise, points[:, :2], distance)
        intensity[index] = 90 * albedo[:, 0] + 50 * paint
        cosine[index] = frame.directions_N3[ray, 2].abs()
        return intensity, cosine


@dataclass(frozen=True, eq=False, slots=True)
class _Frame:
    """The cast rays of one keyframe."""

    posed: Posed
    hits: Hits
    directions_N3: torch.Tensor
    ground_N: torch.Tensor


def _camera(intrinsic_33: FloatArray, shape: tuple[int, int]) -> Pinhole:
    return Pinhole((intrinsic_33[0, 0], intrinsic_33[1, 1]), (intrinsic_33[0, 2], intrinsic_33[1, 2]), shape)


def _soften(radiance_NHW3: torch.Tensor) -> torch.Tensor:
    """The lens: a narrow separable blur, which also takes the stairs off edges."""
    image = radiance_NHW3.clamp(max=4.0)
    for axis in (1, 2):
        size = image.shape[axis]
        middle = image.narrow(axis, 1, size - 2)
        sides = image.narrow(axis, 0, size - 2) + image.narrow(axis, 2, size - 2)
        blurred = image.clone()
        blurred.narrow(axis, 1, size - 2).copy_(0.7 * middle + 0.15 * sides)
        image = blurred
    return image
