"""The ground z = 0: asphalt, lane markings, parking bays, zebra crossings, kerbs, pavement.

Legend: M points on the ground.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from udx.data.synth.street import CYCLE_LANE_M, KERB_M, LANE_WIDTH_M, LANES_M, PAVEMENT_END_M, Scene
from udx.geometry.arrays import FloatArray

ROAD_EDGE_M: Final = LANES_M[-1] + LANE_WIDTH_M / 2
BAY_EDGE_M: Final = 2 * CYCLE_LANE_M - ROAD_EDGE_M
ASPHALT: Final = (0.085, 0.085, 0.09)
PAVEMENT: Final = (0.26, 0.25, 0.235)
KERB: Final = (0.42, 0.41, 0.39)
YARD: Final = (0.16, 0.17, 0.1)
WHITE: Final = (0.72, 0.72, 0.7)
YELLOW: Final = (0.62, 0.42, 0.06)

NOISE_CELLS: Final = 512
_FOOTPRINT: Final = 0.0036
"""Width on the ground, per metre of distance, that one pixel smears a line over."""


def noise_texture(seed: int) -> FloatArray:
    """(512, 512) tileable noise, as strong in every octave of scales: mean 0, deviation 0.5, cut at ±1.5."""
    white = np.random.default_rng(seed).standard_normal((NOISE_CELLS, NOISE_CELLS))
    frequency = np.hypot(np.fft.fftfreq(NOISE_CELLS)[:, None], np.fft.rfftfreq(NOISE_CELLS)[None])
    frequency[0, 0] = np.inf  # no mean
    pink = np.fft.irfft2(np.fft.rfft2(white) / np.maximum(frequency, 4 / NOISE_CELLS), s=white.shape)
    scaled: FloatArray = np.clip(0.5 * pink / pink.std(), -1.5, 1.5)
    return scaled


def sample_noise(texture: Tensor, x_m: Tensor, y_m: Tensor, cell_m: float) -> Tensor:
    """Noise at points of a plane, nearest cell."""
    column = torch.floor(x_m / cell_m).to(torch.int64) % NOISE_CELLS
    row = torch.floor(y_m / cell_m).to(torch.int64) % NOISE_CELLS
    return texture.view(-1)[row * NOISE_CELLS + column]


def road_coordinates(curvature: float, x_m: Tensor, y_m: Tensor) -> tuple[Tensor, Tensor]:
    """(s, d) of points of the scene; the inverse of ``Road.to_scene``."""
    radius = 1 / curvature
    sign = 1.0 if radius > 0 else -1.0
    along, across = x_m * sign, (radius - y_m) * sign
    s = torch.atan2(along, across) * radius
    return s, radius - sign * torch.hypot(along, across)


def _line(position_m: Tensor, centre_m: float, width_m: float, blur_m: Tensor) -> Tensor:
    """Share (M,) of a smeared pixel that a line covers."""
    half = width_m / 2
    cover = (half + blur_m / 2 - (position_m - centre_m).abs()) / blur_m
    return cover.clamp(0, 1) * (width_m / blur_m).clamp(max=1)


def _blend(colours_M3: Tensor, share_M: Tensor, paint: tuple[float, float, float]) -> Tensor:
    target = torch.tensor(paint, device=colours_M3.device)
    return colours_M3 + share_M[:, None] * (target - colours_M3)


def ground_surface(scene: Scene, texture: Tensor, xy_M2: Tensor, distance_M: Tensor) -> tuple[Tensor, Tensor]:
    """Albedo (M, 3) and paint share (M,), which the LiDAR sees as retroreflection.

    ``distance_M`` is the distance of the viewer: lines fade into the asphalt as pixels grow.
    """
    x, y = xy_M2.unbind(1)
    s, d = road_coordinates(scene.road.curvature, x, y)
    side = d.abs()
    blur = (distance_M * _FOOTPRINT).clamp_min(0.02)
    long_blur = (distance_M**2 * _FOOTPRINT / 1.6).clamp_min(0.05)
    on_road = side < KERB_M
    colours = torch.where(on_road[:, None], x.new_tensor(ASPHALT), x.new_tensor(PAVEMENT))
    colours = torch.where((side > PAVEMENT_END_M)[:, None], x.new_tensor(YARD), colours)
    slab = (torch.maximum(_line(s % 1.5, 0.75, 0.05, long_blur), _line(side % 1.5, 0.75, 0.05, blur)) * ~on_road) * 0.4
    colours = _blend(colours, slab * (side < PAVEMENT_END_M), (0.12, 0.12, 0.11))
    colours = _blend(colours, _line(side, KERB_M + 0.12, 0.28, blur), KERB)
    dashes = _line(s % 9.0, 4.5, 3.0, long_blur)
    white = _line(side, LANE_WIDTH_M, 0.15, blur) * dashes
    white = torch.maximum(white, _line(side, ROAD_EDGE_M, 0.14, blur))
    bays = _line(side, BAY_EDGE_M, 0.1, blur)
    bays = torch.maximum(bays, _line(s % 6.5, 3.25, 0.1, long_blur) * (side > BAY_EDGE_M) * on_road)
    white = torch.maximum(white, bays)
    for crossing in scene.crossings_s_m:
        stripes = _line(side % 1.2, 0.6, 0.6, blur) * (side < ROAD_EDGE_M)
        white = torch.maximum(white * ((s - crossing).abs() > 2.2), stripes * ((s - crossing).abs() < 1.8))
    yellow = _line(side, 0.14, 0.12, blur)
    wear = 0.85 + 0.15 * sample_noise(texture, x, y, 0.11)
    colours = _blend(_blend(colours, white * wear, WHITE), yellow * wear, YELLOW)
    coarse = sample_noise(texture, y, x, 0.35)
    fine = sample_noise(texture, x, y, 0.043) / (1 + distance_M / 6)
    return colours * (1 + 0.13 * coarse + 0.25 * fine).clamp_min(0.2)[:, None], torch.maximum(white, yellow)
