"""The ray caster: one vectorised pass serves cameras, the LiDAR and the sun.

Every sensor is a lattice of rays from one origin. A solid is tested against the rays inside its
projected window only: all (solid, ray) pairs of all views are laid out flat and tested at once, and the
nearest hit of each ray wins. Distances along rays are metres.

Legend: V views, S solids, K (view, solid) windows, P (window, ray) pairs, N rays of all views.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from udx.data.synth.solids import Primitive, SolidArrays
from udx.geometry.arrays import FloatArray, IntArray

NEAREST_M: Final = 0.3
CHUNK_PAIRS: Final = {"cpu": 1 << 15, "cuda": 1 << 24}
"""Pairs tested at once: what fits the processor's cache, or a slice of the GPU's memory."""

_EDGES: Final = np.array([(a, b) for a in range(8) for b in range(a) if (a ^ b) in (1, 2, 4)])
_UNIT_CORNERS: Final = np.array([(x, y, z) for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
_NO_HIT: Final = torch.iinfo(torch.int64).max


@runtime_checkable
class Lattice(Protocol):
    """A sensor's rays, row by row, in its own frame."""

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    def directions(self) -> FloatArray:
        """(rows · columns, 3) unit vectors."""

    def windows(self, corners_S83: FloatArray) -> IntArray:
        """(W, S, 4): rows and columns [r0, r1) × [c0, c1) that hold every ray that can meet each hexahedron.

        W is 1, or 2 where a window may wrap around; an empty window has r1 <= r0 or c1 <= c0.
        """


@dataclass(frozen=True)
class Pinhole:
    """A camera without distortion: x right, y down, z forward; whole numbers are pixel centres."""

    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    shape: tuple[int, int]

    def directions(self) -> FloatArray:
        """See ``Lattice``."""
        v, u = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in self.shape), indexing="ij")
        x, y = (u - self.centre_px[0]) / self.focal_px[0], (v - self.centre_px[1]) / self.focal_px[1]
        rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        unit: FloatArray = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return unit

    def windows(self, corners_S83: FloatArray) -> IntArray:
        """See ``Lattice``; edges are clipped at a near plane so that what is behind cannot spoil the bounds."""
        near = 0.5 * NEAREST_M
        start, end = corners_S83[:, _EDGES[:, 0]], corners_S83[:, _EDGES[:, 1]]
        crosses = (start[..., 2] < near) != (end[..., 2] < near)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (near - start[..., 2]) / (end[..., 2] - start[..., 2])
            clipped = start + share[..., None] * (end - start)
            points = np.concatenate([corners_S83, clipped], axis=1)
            valid = np.concatenate([corners_S83[..., 2] >= near, crosses], axis=1)
            u = self.focal_px[0] * points[..., 0] / points[..., 2] + self.centre_px[0]
            v = self.focal_px[1] * points[..., 1] / points[..., 2] + self.centre_px[1]
        spans = [_span(axis, valid, size) for axis, size in ((v, self.shape[0]), (u, self.shape[1]))]
        windows: IntArray = np.concatenate(spans, axis=1).astype(np.int32)[None]
        return windows


@dataclass(frozen=True)
class Spinning:
    """A spinning LiDAR: row = beam from the lowest, column = azimuth, clockwise from its −x axis."""

    lowest_rad: float
    step_rad: float
    shape: tuple[int, int]

    def directions(self) -> FloatArray:
        """See ``Lattice``."""
        beams, columns = self.shape
        elevation = self.lowest_rad + self.step_rad * np.arange(beams)[:, None]
        azimuth = np.pi - 2 * np.pi * np.arange(columns)[None] / columns
        x, y = np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth)
        unit: FloatArray = np.stack([x, y, np.broadcast_to(np.sin(elevation), x.shape)], axis=-1).reshape(-1, 3)
        return unit

    def windows(self, corners_S83: FloatArray) -> IntArray:
        """See ``Lattice``; elevations are bounded from the nearest and farthest the solid can be."""
        beams, columns = self.shape
        centre = corners_S83.mean(axis=1)
        away = np.hypot(centre[:, 0], centre[:, 1])
        radius = np.hypot(*(corners_S83 - centre[:, None])[..., :2].transpose(2, 0, 1)).max(axis=1)
        near, far = np.maximum(away - radius, 1e-3), away + radius
        low, high = corners_S83[..., 2].min(axis=1), corners_S83[..., 2].max(axis=1)
        lowest = np.arctan2(low, np.where(low < 0, near, far))
        highest = np.arctan2(high, np.where(high > 0, near, far))
        row0 = np.clip(np.ceil((lowest - self.lowest_rad) / self.step_rad - 1e-6), 0, beams)
        row1 = np.clip(np.floor((highest - self.lowest_rad) / self.step_rad + 1e-6) + 1, 0, beams)
        bearing = np.arctan2(centre[:, 1], centre[:, 0])[:, None]
        offset = np.arctan2(corners_S83[..., 1], corners_S83[..., 0]) - bearing
        offset = (offset + np.pi) % (2 * np.pi) - np.pi
        turn = columns / (2 * np.pi)
        first = np.ceil((np.pi - bearing[:, 0] - offset.max(axis=1)) * turn - 1e-6)
        last = np.floor((np.pi - bearing[:, 0] - offset.min(axis=1)) * turn + 1e-6) + 1
        around = away <= radius  # the axis may pass through it
        first, last = np.where(around, 0, first), np.where(around, columns, last)
        wrapped = np.floor(first / columns) * columns
        first, last = first - wrapped, last - wrapped
        direct = np.stack([row0, row1, first, np.minimum(last, columns)], axis=1)
        rest = np.stack([row0, row1, np.zeros_like(first), last - columns], axis=1)
        windows: IntArray = np.stack([direct, rest]).astype(np.int32)
        return windows


def _span(pixels_SC: FloatArray, valid_SC: Any, size: int) -> FloatArray:
    """(S, 2): the whole pixels [first, last + 1) between the lowest and the highest valid coordinate."""
    low = np.where(valid_SC, pixels_SC, np.inf).min(axis=1)
    high = np.where(valid_SC, pixels_SC, -np.inf).max(axis=1)
    return np.stack([np.clip(np.ceil(low - 1e-3), 0, size), np.clip(np.floor(high + 1e-3) + 1, 0, size)], axis=1)


@dataclass(frozen=True, eq=False)
class View:
    """One sensor at one moment: its rays, where it is, and where every object is at that moment."""

    lattice: Lattice
    scene_T_sensor: FloatArray
    scene_T_object_O44: FloatArray


class Bundle:
    """The rays of several lattices on a device; they are the same whatever the moment."""

    def __init__(self, lattices: Sequence[Lattice], device: torch.device) -> None:
        self.lattices = tuple(lattices)
        self.device = device
        sizes = [rows * columns for rows, columns in (lattice.shape for lattice in lattices)]
        self.start = np.concatenate([[0], np.cumsum(sizes)])
        directions = np.concatenate([lattice.directions() for lattice in lattices])
        self.sensor_directions_3N = torch.tensor(directions.T, dtype=torch.float32, device=device).contiguous()
        self.view_N = torch.repeat_interleave(
            torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device)
        )

    @property
    def num_rays(self) -> int:
        """N."""
        return int(self.start[-1])

    def slices(self) -> Iterator[slice]:
        """The rays of each view."""
        for begin, end in zip(self.start[:-1], self.start[1:], strict=True):
            yield slice(int(begin), int(end))


@dataclass(frozen=True, eq=False)
class Posed:
    """The solids as the views see them.

    ``local_T_sensor_VS34`` brings sensor coordinates into a solid's own, in which it fills [−1, 1]³;
    ``scene_R_local_VS33`` turns (without scaling) back into the scene.
    """

    solids: SolidArrays
    views: tuple[View, ...]
    local_T_sensor_VS34: FloatArray
    scene_R_local_VS33: FloatArray
    corners_VS83: FloatArray

    @classmethod
    def of(cls, solids: SolidArrays, views: Sequence[View]) -> "Posed":
        """Place the solids of a scene in front of views."""
        matrices, rotations, corners = [], [], []
        for view in views:
            pose = view.scene_T_object_O44[solids.owner_S]
            rotation = pose[:, :3, :3] @ solids.rotation_S33
            centre = np.einsum("sij,sj->si", pose[:, :3, :3], solids.centre_S3) + pose[:, :3, 3]
            sensor_R, sensor_t = view.scene_T_sensor[:3, :3], view.scene_T_sensor[:3, 3]
            linear = rotation.transpose(0, 2, 1) / solids.half_S3[:, :, None]
            origin = np.einsum("sij,sj->si", linear, sensor_t - centre)
            matrices.append(np.concatenate([linear @ sensor_R, origin[:, :, None]], axis=2))
            rotations.append(rotation)
            reach = _UNIT_CORNERS * solids.half_S3[:, None]
            in_scene = np.einsum("sij,skj->ski", rotation, reach) + centre[:, None]
            corners.append((in_scene - sensor_t) @ sensor_R)
        return cls(
            solids=solids,
            views=tuple(views),
            local_T_sensor_VS34=np.array(matrices),
            scene_R_local_VS33=np.array(rotations),
            corners_VS83=np.array(corners),
        )


@dataclass(frozen=True, eq=False)
class Hits:
    """What each ray of a bundle meets first among the solids: distance (inf: nothing) and solid (−1: none).

    ``covered`` are the (owner, ray) pairs that would meet if nothing stood in front, as
    ``owner · N + ray``, unique and ascending; empty unless asked for.
    """

    distance_N: Tensor
    solid_N: Tensor
    covered: Tensor


@dataclass(frozen=True, eq=False)
class _Windows:
    """Flat (view, solid) windows of one primitive: the solid's row, its maths, and its runs of rays."""

    solid_K: Tensor
    table_FK: Tensor
    first_ray_K: Tensor
    rows_K: Tensor
    columns_K: Tensor
    stride_K: Tensor

    @cached_property
    def area_K(self) -> Tensor:
        """Rays in each window."""
        return self.rows_K * self.columns_K


def cast(bundle: Bundle, posed: Posed, covered_owners: int = 0, covered_rays: int = 0) -> Hits:
    """Find what every ray meets first among the solids.

    Args:
        bundle: the rays.
        posed: the solids, posed for the same views in the same order.
        covered_owners: list also which rays each of the first so many owners covers, occluded or not,
        covered_rays: among the first so many rays.
    """
    owner_S = torch.tensor(posed.solids.owner_S, device=bundle.device)
    best = torch.full((bundle.num_rays,), _NO_HIT, dtype=torch.int64, device=bundle.device)
    covered = [torch.zeros(0, dtype=torch.int64, device=bundle.device)]
    limit = CHUNK_PAIRS[bundle.device.type]
    for primitive, meet in (
        (Primitive.BLOCK, _meet_block),
        (Primitive.ROUND, _meet_round),
        (Primitive.BALL, _meet_ball),
    ):
        windows = _windows_of(bundle, posed, primitive)
        for part in _chunks(windows, limit):
            window_P, ray_P = _pairs(windows, part)
            distance = meet(windows.table_FK, window_P, bundle.sensor_directions_3N, ray_P)
            met = torch.nonzero(distance > NEAREST_M).squeeze(1)
            ray, solid = ray_P[met], windows.solid_K[window_P[met]]
            # A positive float's bits sort like the float: one integer minimum finds distance and solid.
            key = (distance[met].view(torch.int32).to(torch.int64) << 32) | solid
            best.scatter_reduce_(0, ray, key, "amin")
            if covered_owners:
                owner = owner_S[solid]
                mine = (owner < covered_owners) & (ray < covered_rays)
                covered.append(owner[mine] * bundle.num_rays + ray[mine])
    nothing = best == _NO_HIT
    distance = (best >> 32).to(torch.int32).view(torch.float32)
    return Hits(
        distance_N=torch.where(nothing, torch.inf, distance),
        solid_N=torch.where(nothing, -1, best & 0xFFFFFFFF),
        covered=torch.unique(torch.cat(covered)),
    )


def _windows_of(bundle: Bundle, posed: Posed, primitive: Primitive) -> _Windows:
    """All non-empty windows of one primitive's solids in all views."""
    chosen = np.flatnonzero(posed.solids.primitive_S == primitive)
    solids, bounds, tables, firsts, strides = [], [], [], [], []
    for view, lattice in enumerate(bundle.lattices):
        for window_S4 in lattice.windows(posed.corners_VS83[view, chosen]):
            seen = np.flatnonzero((window_S4[:, 1] > window_S4[:, 0]) & (window_S4[:, 3] > window_S4[:, 2]))
            width = lattice.shape[1]
            solids.append(chosen[seen])
            bounds.append(window_S4[seen])
            firsts.append(bundle.start[view] + window_S4[seen, 0] * width + window_S4[seen, 2])
            strides.append(np.full(len(seen), width))
            tables.append(_table(posed, view, chosen[seen]))

    def on_device(parts: list[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(np.concatenate(parts), dtype=dtype, device=bundle.device)

    box_K4 = np.concatenate(bounds)
    return _Windows(
        solid_K=on_device(solids, torch.int64),
        table_FK=on_device(tables, torch.float32).T.contiguous(),
        first_ray_K=on_device(firsts, torch.int64),
        rows_K=torch.tensor(box_K4[:, 1] - box_K4[:, 0], dtype=torch.int64, device=bundle.device),
        columns_K=torch.tensor(box_K4[:, 3] - box_K4[:, 2], dtype=torch.int64, device=bundle.device),
        stride_K=on_device(strides, torch.int64),
    )


def _table(posed: Posed, view: int, solids: Any) -> FloatArray:
    """(K, 15): the 3×4 transform, row by row, and the tapers, of some solids in one view."""
    matrix = posed.local_T_sensor_VS34[view, solids].reshape(-1, 12)
    return np.concatenate([matrix, posed.solids.taper_S3[solids]], axis=1)


def _chunks(windows: _Windows, limit: int) -> Iterator[slice]:
    """Consecutive windows with about ``limit`` pairs together."""
    area = windows.area_K.cpu().numpy()
    group = (np.cumsum(area) - area) // limit
    edges = [*np.flatnonzero(np.diff(group, prepend=-1)).tolist(), len(area)]
    yield from (slice(begin, end) for begin, end in pairwise(edges))


def _pairs(windows: _Windows, part: slice) -> tuple[Tensor, Tensor]:
    """Window and ray of every pair: windows are unrolled to rows, rows to rays."""
    device = windows.rows_K.device
    rows = windows.rows_K[part]
    index = torch.arange(part.start, part.stop, device=device)
    window_R = torch.repeat_interleave(index, rows)
    row_R = torch.arange(len(window_R), device=device) - (torch.cumsum(rows, 0) - rows)[window_R - part.start]
    columns_R = windows.columns_K[window_R]
    first_R = windows.first_ray_K[window_R] + row_R * windows.stride_K[window_R]
    base_R = first_R - (torch.cumsum(columns_R, 0) - columns_R)
    run_P = torch.repeat_interleave(columns_R)
    ray_P = base_R[run_P] + torch.arange(len(run_P), device=device)
    return window_R[run_P], ray_P


def _local_rays(table_FK: Tensor, window_P: Tensor, directions_3N: Tensor, ray_P: Tensor) -> list[Tensor]:
    """Direction of each pair's ray in its solid's coordinates: x, y, z, each (P,)."""
    x, y, z = (axis.index_select(0, ray_P) for axis in directions_3N)
    m = [table_FK[column].index_select(0, window_P) for column in (0, 1, 2, 4, 5, 6, 8, 9, 10)]
    return [m[3 * i].mul_(x).addcmul_(m[3 * i + 1], y).addcmul_(m[3 * i + 2], z) for i in range(3)]


def _meet_block(table_FK: Tensor, window_P: Tensor, directions_3N: Tensor, ray_P: Tensor) -> Tensor:
    """Distance (P,) at which rays enter a tapered block; inf where they miss it.

    The six faces are planes n·q <= b; a convex solid is entered at the last plane crossed inwards.
    """
    dx, dy, dz = _local_rays(table_FK, window_P, directions_3N, ray_P)
    ox, oy, oz = table_FK[3], table_FK[7], table_FK[11]
    front, rear, side = (taper / 2 for taper in table_FK[12:15])
    room_K = (1 - oz, 1 + oz, 1 - ox - front * (oz + 1), 1 + ox - rear * (oz + 1))
    lateral_K = (1 - oy - side * (oz + 1), 1 + oy - side * (oz + 1))
    lean = side.index_select(0, window_P) * dz
    slopes = (
        dz,
        -dz,
        torch.addcmul(dx, front.index_select(0, window_P), dz),
        (rear.index_select(0, window_P) * dz).sub_(dx),
        lean + dy,
        lean - dy,
    )
    enter = torch.zeros_like(dx)
    leave = torch.full_like(dx, torch.inf)
    for room, slope in zip((*room_K, *lateral_K), slopes, strict=True):
        crossing = room.index_select(0, window_P).div_(slope)
        inwards = slope < 0
        enter = torch.where(inwards, torch.maximum(enter, crossing), enter)
        leave = torch.where(inwards, leave, torch.minimum(leave, crossing))
    return torch.where(enter < leave, enter, -1.0)


def _meet_round(table_FK: Tensor, window_P: Tensor, directions_3N: Tensor, ray_P: Tensor) -> Tensor:
    """Distance (P,) at which rays meet a cylinder or frustum; −1 where they miss it.

    Four places can be the first: two on the side x² + y² = (1 − k(z + 1)/2)², one on each cap.
    """
    dx, dy, dz = _local_rays(table_FK, window_P, directions_3N, ray_P)
    ox, oy, oz, k = (table_FK[column].index_select(0, window_P) for column in (3, 7, 11, 12))
    half_k = k / 2
    radius, shrink = 1 - half_k - half_k * oz, half_k * dz
    a = dx * dx + dy * dy - shrink * shrink
    b = ox * dx + oy * dy + radius * shrink
    c = ox * ox + oy * oy - radius * radius
    root = (b * b - a * c).sqrt()  # NaN where the ray misses the side: every comparison then fails
    nearest = torch.full_like(dx, torch.inf)
    for distance in ((-b - root) / a, (-b + root) / a):
        z = oz + distance * dz
        nearest = torch.where((z.abs() <= 1) & (distance > 0) & (distance < nearest), distance, nearest)
    for cap in (-1.0, 1.0):
        distance = (cap - oz) / dz
        x, y = ox + distance * dx, oy + distance * dy
        rim = 1 - half_k * (1 + cap)
        inside = x * x + y * y <= rim * rim
        nearest = torch.where(inside & (distance > 0) & (distance < nearest), distance, nearest)
    return torch.where(nearest < torch.inf, nearest, -1.0)


def _meet_ball(table_FK: Tensor, window_P: Tensor, directions_3N: Tensor, ray_P: Tensor) -> Tensor:
    """Distance (P,) at which rays meet an ellipsoid; −1 where they miss it."""
    dx, dy, dz = _local_rays(table_FK, window_P, directions_3N, ray_P)
    ox, oy, oz = (table_FK[column].index_select(0, window_P) for column in (3, 7, 11))
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz - 1
    square = b * b - a * c
    distance = (-b - square.clamp_min(0).sqrt()) / a
    return torch.where(square > 0, distance, -1.0)
