"""From ray hits to colours and LiDAR returns.

Legend: N rays, M hits on solids or ground points, V views, S solids.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from udx.data.synth.cast import Bundle, Hits, Pinhole, Posed
from udx.data.synth.ground import NOISE_CELLS, ground_surface, sample_noise
from udx.data.synth.solids import REFLECTANCE, Primitive, SolidArrays, Surface
from udx.data.synth.street import Lighting, Scene
from udx.geometry.arrays import FloatArray

SUN_DISTANCE_M: Final = 1000.0
_SHADOW_BIAS_M: Final = 0.15


@dataclass(frozen=True, eq=False, slots=True)
class Contacts:
    """Where rays meet solids: (M,) ray and solid, (M, 3) point and normal in the scene, point in the solid.

    ``local_M3`` is in metres along the solid's own axes; ``axis_M`` is the axis whose face was met.
    """

    ray_M: Tensor
    solid_M: Tensor
    distance_M: Tensor
    point_M3: Tensor
    normal_M3: Tensor
    local_M3: Tensor
    axis_M: Tensor


def scene_directions(bundle: Bundle, posed: Posed) -> Tensor:
    """(N, 3) unit directions of all rays in the scene's frame."""
    parts = []
    for view, rays in zip(posed.views, bundle.slices(), strict=True):
        rotation = torch.tensor(view.scene_T_sensor[:3, :3], dtype=torch.float32, device=bundle.device)
        parts.append((rotation @ bundle.sensor_directions_3N[:, rays]).T)
    return torch.cat(parts)


def ray_origins(bundle: Bundle, posed: Posed) -> Tensor:
    """(V, 3) origins of the views in the scene's frame."""
    origins = np.array([view.scene_T_sensor[:3, 3] for view in posed.views])
    return torch.tensor(origins, dtype=torch.float32, device=bundle.device)


def ground_distance(bundle: Bundle, posed: Posed, directions_N3: Tensor) -> Tensor:
    """(N,) distance at which rays meet z = 0; inf for those that rise."""
    height_N = ray_origins(bundle, posed)[:, 2][bundle.view_N]
    falling = directions_N3[:, 2] < -1e-4
    return torch.where(falling, -height_N / directions_N3[:, 2], torch.inf)


def contacts(bundle: Bundle, posed: Posed, hits: Hits, ray_M: Tensor, directions_N3: Tensor) -> Contacts:
    """Work out point and normal of the hits of some rays."""
    solids, device = posed.solids, bundle.device
    solid, view = hits.solid_N[ray_M], bundle.view_N[ray_M]
    row = view * len(solids) + solid
    matrix = _rows(posed.local_T_sensor_VS34.reshape(-1, 12), row, device).view(-1, 3, 4)
    distance = hits.distance_N[ray_M]
    sensor = bundle.sensor_directions_3N[:, ray_M].T * distance[:, None]
    unit = torch.einsum("mij,mj->mi", matrix[:, :, :3], sensor) + matrix[:, :, 3]
    gradient, axis = _gradient(solids, solid, unit)
    half = _rows(solids.half_S3, solid, device)
    rotation = _rows(posed.scene_R_local_VS33.reshape(-1, 9), row, device).view(-1, 3, 3)
    normal = torch.einsum("mij,mj->mi", rotation, gradient / half)
    return Contacts(
        ray_M=ray_M,
        solid_M=solid,
        distance_M=distance,
        point_M3=ray_origins(bundle, posed)[view] + directions_N3[ray_M] * distance[:, None],
        normal_M3=torch.nn.functional.normalize(normal, dim=1),
        local_M3=unit * half,
        axis_M=axis,
    )


def _rows(table: FloatArray, index: Tensor, device: torch.device) -> Tensor:
    return torch.tensor(table, dtype=torch.float32, device=device).index_select(0, index)


def _gradient(solids: SolidArrays, solid_M: Tensor, unit_M3: Tensor) -> tuple[Tensor, Tensor]:
    """Outward gradient (M, 3) of the surface in the solid's unit coordinates, and the axis of the face."""
    x, y, z = unit_M3.unbind(1)
    taper = _rows(solids.taper_S3 / 2, solid_M, unit_M3.device)
    primitive = torch.tensor(solids.primitive_S, device=unit_M3.device)[solid_M]
    front, rear, side = taper.unbind(1)
    up = z + 1
    room = torch.stack([1 - z, 1 + z, 1 - x - front * up, 1 + x - rear * up, 1 - y - side * up, 1 + y - side * up], 1)
    face = room.argmin(dim=1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    sign = 1.0 - 2.0 * (face % 2)
    lean = torch.where(face == 2, front, torch.where(face == 3, rear, torch.where(face >= 4, side, one * sign)))
    block = torch.stack([sign * ((face == 2) | (face == 3)), sign * (face >= 4), lean], dim=1)
    capped = z.abs() > 0.9995
    ring = torch.stack([x, y, front * (1 - front * up)], dim=1)
    ring = torch.where(capped[:, None], torch.stack([zero, zero, z], dim=1), ring)
    gradient = torch.where((primitive == Primitive.BLOCK)[:, None], block, unit_M3)
    gradient = torch.where((primitive == Primitive.ROUND)[:, None], ring, gradient)
    axis = torch.where(face < 2, 2, torch.where(face < 4, 0, 1))
    axis = torch.where(primitive == Primitive.ROUND, torch.where(capped, 2, 0), axis)
    return gradient, axis


@dataclass(frozen=True, eq=False, slots=True)
class DepthMap:
    """What a far eye sees: the sun's view for shadows, the zenith's for the dimness under vehicles."""

    lattice: Pinhole
    sensor_T_scene: FloatArray
    depth_HW: Tensor

    def look_up(self, points_M3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row and column (M,), in pixels, of points of the scene, and their distance from the eye."""
        matrix = torch.tensor(self.sensor_T_scene, dtype=torch.float32, device=points_M3.device)
        x, y, z = (points_M3 @ matrix[:3, :3].T + matrix[:3, 3]).unbind(1)
        column = x / z * self.lattice.focal_px[0] + self.lattice.centre_px[0]
        row = y / z * self.lattice.focal_px[1] + self.lattice.centre_px[1]
        return row, column, torch.sqrt(x * x + y * y + z * z)

    def lit_share(self, points_M3: Tensor) -> Tensor:
        """(M,) 1 where the eye sees the point, 0 where something stands between, blurred by bilinear weights."""
        row, column, distance = self.look_up(points_M3)
        height, width = self.lattice.shape
        # A margin of open sky takes all points outside the picture, so that no tap needs a bounds check.
        open_sky = torch.nn.functional.pad(self.depth_HW, (1, 2, 1, 2), value=torch.inf).view(-1)
        row, column = (row + 1).clamp(0, height + 1), (column + 1).clamp(0, width + 1)
        row0, column0 = torch.floor(row), torch.floor(column)
        down, right = row - row0, column - column0
        corner = row0.to(torch.int64) * (width + 3) + column0.to(torch.int64)
        limit = distance - _SHADOW_BIAS_M
        lit = [(open_sky[corner + step] > limit).to(torch.float32) for step in (0, 1, width + 3, width + 4)]
        upper = lit[0] + right * (lit[1] - lit[0])
        lower = lit[2] + right * (lit[3] - lit[2])
        return upper + down * (lower - upper)


def far_eye(to_eye: FloatArray, focus: FloatArray, cell_m: float, reach_m: float) -> tuple[Pinhole, FloatArray]:
    """A telescope ``SUN_DISTANCE_M`` away in a direction: its lattice and pose ``scene_T_sensor``.

    It sees a disc of ground of radius ``reach_m`` around ``focus``, ``cell_m`` a pixel across its view.
    """
    forward = -to_eye
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right) if np.linalg.norm(right) > 1e-6 else np.array([0.0, -1.0, 0.0])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = focus + SUN_DISTANCE_M * to_eye
    width, height = (2 * int(reach / cell_m) for reach in (reach_m, reach_m * to_eye[2] + 2.0))
    focal = SUN_DISTANCE_M / cell_m
    return Pinhole((focal, focal), ((width - 1) / 2, (height - 1) / 2), (height, width)), pose


@dataclass(frozen=True, eq=False, slots=True)
class Light:
    """The light of one keyframe: the scene's lighting, its shadow map and the dimness under things."""

    lighting: Lighting
    sun: DepthMap
    dimness: DepthMap
    noise: Tensor

    def colour(self, name: str) -> Tensor:
        """A colour of the lighting (3,)."""
        return torch.tensor(getattr(self.lighting, name), dtype=torch.float32, device=self.noise.device)

    def received(self, points_M3: Tensor, normals_M3: Tensor) -> tuple[Tensor, Tensor]:
        """Direct sunlight (M,), 0 to 1, and ambient light (M, 3) on surfaces."""
        to_sun = torch.tensor(self.lighting.to_sun, dtype=torch.float32, device=points_M3.device)
        facing = (normals_M3 @ to_sun).clamp_min(0)
        direct = facing * self.sun.lit_share(points_M3 + 0.12 * normals_M3)
        up = 0.5 + 0.5 * normals_M3[:, 2:]
        near_ground = (0.55 + 0.45 * points_M3[:, 2:] / 0.7).clamp(0.55, 1.0)
        ambient = self.colour("sky_colour") * up + self.colour("sun_colour") * (0.07 * (1 - up))
        return direct, ambient * torch.where(up < 0.99, near_ground, 1.0) * 0.75


def sky_colour(light: Light, directions_M3: Tensor) -> Tensor:
    """Sky (M, 3): a gradient, clouds, the sun's glow, and a hazy skyline."""
    x, y, z = directions_M3.unbind(1)
    rise = (z.clamp_min(0) * 2.2).clamp(max=1).sqrt()[:, None]
    sky = light.colour("horizon_colour") * (1 - rise) + light.colour("sky_colour") * rise
    spread = 1 / z.clamp_min(0.05)
    cloud = sample_noise(light.noise, x * spread, y * spread, 0.012).clamp(0, 1) * (z * 5).clamp(0, 1)
    sky = sky + (light.colour("horizon_colour") * 1.05 - sky) * (0.8 * cloud)[:, None]
    to_sun = torch.tensor(light.lighting.to_sun, dtype=torch.float32, device=z.device)
    glow = (directions_M3 @ to_sun).clamp_min(0).pow(48)
    sky = sky + light.colour("sun_colour") * (0.35 * glow)[:, None]
    bearing = torch.atan2(y, x)
    skyline = 0.035 + 0.03 * sample_noise(light.noise, bearing, torch.zeros_like(bearing), 0.022)
    town = light.colour("horizon_colour") * 0.62
    return torch.where((z < skyline)[:, None], town, sky)


def solid_colour(light: Light, solids: SolidArrays, seen: Contacts, directions_M3: Tensor) -> Tensor:
    """Radiance (M, 3) of hits on solids."""
    device = seen.point_M3.device
    surface = torch.tensor(solids.surface_S, device=device)[seen.solid_M]
    albedo = _rows(solids.colour_S3, seen.solid_M, device)
    albedo = _patterned(light.noise, surface, albedo, seen, solids)
    direct, ambient = light.received(seen.point_M3, seen.normal_M3)
    sun = light.colour("sun_colour")
    radiance = albedo * (direct[:, None] * sun + ambient)
    mirror = directions_M3 - 2 * (directions_M3 * seen.normal_M3).sum(1, keepdim=True) * seen.normal_M3
    shiny = torch.nonzero((surface == Surface.PAINT) | (surface == Surface.GLASS)).squeeze(1)
    glass = (surface[shiny] == Surface.GLASS)[:, None]
    grazing = (1 - (directions_M3[shiny] * seen.normal_M3[shiny]).sum(1).abs()).clamp(0, 1).pow(3)[:, None]
    strength = torch.where(glass, 0.13 + 0.5 * grazing, 0.05 + 0.35 * grazing)
    up = mirror[shiny, 2:]
    reflected = torch.where(up > 0.06, light.colour("sky_colour") * 0.4 + light.colour("horizon_colour") * 0.4, 0.12)
    to_sun = torch.tensor(light.lighting.to_sun, dtype=torch.float32, device=device)
    glint = (mirror[shiny] @ to_sun).clamp_min(0).pow(60) * (direct[shiny] > 0)
    radiance[shiny] += strength * reflected + 0.5 * glint[:, None] * sun
    glowing = (surface == Surface.LAMP)[:, None]
    return torch.where(glowing, radiance + 0.35 * albedo, radiance)


def _patterned(noise: Tensor, surface: Tensor, albedo: Tensor, seen: Contacts, solids: SolidArrays) -> Tensor:
    """Albedo (M, 3) after the procedural pattern of each surface."""
    half = _rows(solids.half_S3, seen.solid_M, albedo.device)
    for kind, pattern in (
        (Surface.RUBBER, _wheel),
        (Surface.PANELS, _panels),
        (Surface.FACADE, _facade),
        (Surface.FOLIAGE, _foliage),
        (Surface.BARRIER, _stripes),
        (Surface.CONE, _bands),
    ):
        index = torch.nonzero(surface == kind).squeeze(1)
        if len(index):
            part = _Patch(noise, albedo[index], seen.local_M3[index], half[index], seen.axis_M[index], seen, index)
            albedo[index] = pattern(part)
    return albedo


@dataclass(frozen=True, eq=False, slots=True)
class _Patch:
    """The hits on one kind of surface: colour, place on the solid (metres), its half size, the face's axis."""

    noise: Tensor
    albedo: Tensor
    local: Tensor
    half: Tensor
    axis: Tensor
    seen: Contacts
    index: Tensor

    def along_face(self) -> Tensor:
        """Horizontal coordinate on a wall, metres."""
        return torch.where(self.axis == 0, self.local[:, 1], self.local[:, 0])

    def above_bottom(self) -> Tensor:
        """Height over the solid's bottom, metres."""
        return self.local[:, 2] + self.half[:, 2]


def _wheel(patch: _Patch) -> Tensor:
    radius = torch.hypot(patch.local[:, 0], patch.local[:, 1]) / patch.half[:, 0]
    spokes = (torch.atan2(patch.local[:, 1], patch.local[:, 0]) * 5).cos() > -0.5
    hub = (radius < 0.62) & (patch.axis == 2) & spokes & (patch.half[:, 2] < 0.25)
    return torch.where(hub[:, None], torch.full_like(patch.albedo, 0.42), patch.albedo)


def _panels(patch: _Patch) -> Tensor:
    seam = (patch.along_face() % 0.6 < 0.07) & (patch.axis != 2)
    stripe = (patch.above_bottom() / (2 * patch.half[:, 2]) - 0.42).abs() < 0.09
    colour = patch.albedo * torch.where(seam, 0.72, 1.0)[:, None]
    return torch.where((stripe & (patch.axis == 1))[:, None], colour * colour.new_tensor((0.5, 0.6, 0.8)), colour)


def _facade(patch: _Patch) -> Tensor:
    """Windows every 2.6 m along the wall and 3.2 m up it; a shop front below."""
    u, v = patch.along_face() + 100.0, patch.above_bottom()
    column, floor = torch.floor(u / 2.6), torch.floor(v / 3.2)
    x, y = u / 2.6 - column, v / 3.2 - floor
    shop = floor == 0
    window = torch.where(shop, (x > 0.08) & (x < 0.92) & (y < 0.8), (x > 0.28) & (x < 0.72) & (y > 0.28) & (y < 0.78))
    cell = (column * 7 + floor * 131 + patch.seen.solid_M[patch.index] * 17).to(torch.int64) % (NOISE_CELLS**2)
    bright = patch.noise.view(-1)[(cell * 977) % (NOISE_CELLS**2)]
    pane = torch.stack([0.1 + 0.1 * bright, 0.12 + 0.1 * bright, 0.15 + 0.08 * bright], dim=1).clamp_min(0.02)
    worn = 1 + 0.12 * sample_noise(patch.noise, u, v, 0.15)
    wall = patch.albedo * (worn * torch.where((y < 0.06) & ~shop, 0.75, 1.0))[:, None]
    return torch.where((window & (patch.axis != 2))[:, None], pane, wall)


def _foliage(patch: _Patch) -> Tensor:
    leaves = sample_noise(patch.noise, patch.local[:, 0] + patch.local[:, 1], patch.local[:, 2], 0.06)
    return patch.albedo * (1 + 0.75 * leaves).clamp_min(0.15)[:, None]


def _stripes(patch: _Patch) -> Tensor:
    white = (patch.local[:, 1] + 0.6 * patch.local[:, 2]) % 0.8 < 0.4
    return torch.where(white[:, None], torch.full_like(patch.albedo, 0.75), patch.albedo)


def _bands(patch: _Patch) -> Tensor:
    share = patch.above_bottom() / (2 * patch.half[:, 2])
    white = ((share > 0.34) & (share < 0.52)) | ((share > 0.66) & (share < 0.8))
    return torch.where(white[:, None], torch.full_like(patch.albedo, 0.8), patch.albedo)


def ground_colour(light: Light, scene: Scene, points_M3: Tensor, distance_M: Tensor) -> Tensor:
    """Radiance (M, 3) of the ground."""
    albedo, _ = ground_surface(scene, light.noise, points_M3[:, :2], distance_M)
    up = torch.zeros_like(points_M3)
    up[:, 2] = 1.0
    direct, ambient = light.received(points_M3, up)
    open_sky = 0.35 + 0.65 * _open_share(light.dimness, points_M3)
    return albedo * (direct[:, None] * light.colour("sun_colour") + ambient * open_sky[:, None])


def _open_share(dimness: DepthMap, points_M3: Tensor) -> Tensor:
    """(M,) share of open sky above ground points, from the blurred zenith map."""
    row, column, _ = dimness.look_up(points_M3)
    height, width = dimness.lattice.shape
    grid = torch.stack([2 * (column + 0.5) / width - 1, 2 * (row + 0.5) / height - 1], dim=1)
    image = dimness.depth_HW[None, None]
    sampled = torch.nn.functional.grid_sample(image, grid[None, None], padding_mode="border", align_corners=False)
    return sampled[0, 0, 0]


def open_sky_map(depth_HW: Tensor, tallest_m: float = 4.0) -> Tensor:
    """Blur what the zenith sees into the share of open sky; things taller than ``tallest_m`` do not count."""
    height = SUN_DISTANCE_M - depth_HW
    covered = ((height > 0.1) & (height < tallest_m)).to(torch.float32)[None, None]
    blurred = torch.nn.functional.avg_pool2d(covered, 5, stride=1, padding=2)
    blurred = torch.nn.functional.avg_pool2d(blurred, 3, stride=1, padding=1)
    return 1 - torch.maximum(blurred, 0.8 * covered)[0, 0]


def through_haze(light: Light, radiance_M3: Tensor, distance_M: Tensor) -> Tensor:
    """Radiance (M, 3) after ``distance_M`` of air that takes on the horizon's colour."""
    clear = torch.exp(-distance_M / light.lighting.haze_m)[:, None]
    return radiance_M3 * clear + light.colour("horizon_colour") * (0.8 * (1 - clear))


def photograph(radiance_N3: Tensor, noise_N3: Tensor, exposure: float) -> Tensor:
    """Bytes (N, 3) of an image: exposure, a soft shoulder, gamma, sensor noise."""
    exposed = radiance_N3 * (1.35 * exposure)
    toned = exposed * (1 + exposed / 5.0) / (1 + exposed)
    encoded = toned.clamp(0, 1).pow(1 / 2.2) + noise_N3 * 0.009
    return (encoded * 255).round().clamp(0, 255).to(torch.uint8)


def reflectance_of(solids: SolidArrays, device: torch.device) -> Tensor:
    """(S,) LiDAR intensity of a perpendicular hit: the surface's, a little brighter where the paint is."""
    base = np.array([REFLECTANCE[Surface(kind)] for kind in solids.surface_S])
    brightness = 0.6 + 0.8 * solids.colour_S3.mean(axis=1)
    return torch.tensor(base * brightness, dtype=torch.float32, device=device)
