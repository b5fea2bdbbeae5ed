"""Boxes drawn on the BEV map and on every camera image: one picture of a keyframe."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from udx.data.detections import Detections
from udx.data.frame import KeyFrame
from udx.data.images import opened
from udx.data.points import accumulate, in_bev_frame
from udx.geometry import CLASSES, CameraRig
from udx.geometry.arrays import ByteArray, Float32Array, FloatArray
from udx.geometry.boxes import box_corners
from udx.runtime.wireframe import wireframes

Colour = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

CLASS_COLOURS: Final[tuple[Colour, ...]] = (
    (255, 158, 0),  # car
    (255, 99, 71),  # truck
    (255, 215, 64),  # bus
    (255, 140, 180),  # trailer
    (200, 120, 60),  # construction vehicle
    (80, 160, 255),  # pedestrian
    (255, 70, 170),  # motorcycle
    (190, 110, 255),  # bicycle
    (0, 220, 200),  # traffic cone
    (150, 215, 90),  # barrier
)
TRUTH_COLOUR: Final = (245, 245, 245)
BACKGROUND: Final = (16, 19, 25)
INK: Final = (225, 230, 238)
SOFT: Final = (120, 130, 145)
GAP_PX: Final = 6
COLUMNS: Final = 3
CAPTION_MIN_PX: Final = 40
"""Height of a box that is named, in pixels of an image 800 wide."""
SMOOTHING: Final = 2
"""All is drawn this many times larger and scaled down: Pillow's own lines are jagged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlines:
    """Boxes of one kind and how to draw them; a width of 1 is that of the ground truth."""

    boxes_N9: FloatArray
    colours: list[Colour]
    captions: list[str]
    width: float


def draw_frame(
    keyframe: KeyFrame,
    detections: Detections | None = None,
    *,
    score: float = 0.3,
    truth: bool = True,
    reach_m: float = 52.0,
    width_px: int = 2400,
) -> Image.Image:
    """Draw detections (by class, with scores) and ground truth (white) on all cameras and on the BEV map.

    Args:
        keyframe: what to draw; its images and its own sweep are read.
        detections: what a detector found; those with a score of at least ``score`` are drawn.
        score: lowest score shown.
        truth: whether annotations are drawn, if there are any.
        reach_m: half the side of the ground that the map shows.
        width_px: width of the picture; the height follows.

    Raises:
        UdxError: an image or the sweep is missing or damaged.
    """
    layers = _layers(keyframe, detections, score=score, truth=truth)
    rows = -(-len(keyframe.image_paths) // COLUMNS)
    columns = COLUMNS if rows else 0
    # Three columns of 16:9 tiles, and beside them a square map as high as all rows together; or the map alone.
    tile_width = round((width_px - (COLUMNS + 1) * GAP_PX) / (COLUMNS + rows * 9 / 16))
    tile_height = round(tile_width * 9 / 16)
    side = rows * tile_height + (rows - 1) * GAP_PX if rows else width_px
    band = max(30, width_px // 55)
    mosaic_width = columns * (tile_width + GAP_PX)
    canvas = Image.new("RGB", (mosaic_width + side, side + band), BACKGROUND)
    for camera, path in enumerate(keyframe.image_paths):
        row, column = divmod(camera, COLUMNS)
        tile = draw_camera(path, keyframe.rig, camera, layers, (tile_width, tile_height))
        canvas.paste(tile, (column * (tile_width + GAP_PX), row * (tile_height + GAP_PX)))
    points = accumulate(map(in_bev_frame, keyframe.sweeps[:1]), np.eye(4))
    canvas.paste(_draw_map(points, layers, reach_m, side), (mosaic_width, 0))
    _draw_legend(canvas, side, band, keyframe, detections, score)
    return canvas


def draw_camera(path: Path, rig: CameraRig, camera: int, layers: list[Outlines], size: tuple[int, int]) -> Image.Image:
    """Draw the boxes that one camera sees on its image, which is scaled to fit ``size``."""
    with opened(path) as file:
        own_size = file.size
        image = ImageOps.contain(file.convert("RGB"), (size[0] * SMOOTHING, size[1] * SMOOTHING))
    pen = ImageDraw.Draw(image)
    scale = np.tile(np.array(image.size) / own_size, 2)
    unit = image.width / 800
    font = _font(round(11 * unit))
    for layer in layers:
        for seen in wireframes(layer.boxes_N9, rig, camera, *own_size):
            colour = layer.colours[seen.box]
            segments = (seen.segments_S4 + 0.5) * scale  # Pillow counts from the pixel's edge
            for segment in segments:
                pen.line(segment.tolist(), fill=colour, width=max(SMOOTHING, round(layer.width * unit)))
            ends = segments.reshape(-1, 2)
            # Small boxes stand in crowds, where captions would hide what they name.
            if (caption := layer.captions[seen.box]) and np.ptp(ends[:, 1]) > CAPTION_MIN_PX * unit:
                _label(pen, (float(ends[:, 0].min()), float(ends[:, 1].min())), caption, colour, font)
    _label(pen, (0, 22 * unit), rig.names[camera].removeprefix("CAM_").replace("_", " ").lower(), INK, font)
    image = image.reduce(SMOOTHING)
    tile = Image.new("RGB", size, BACKGROUND)
    tile.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return tile


def _layers(keyframe: KeyFrame, detections: Detections | None, *, score: float, truth: bool) -> list[Outlines]:
    """Ground truth first, so that detections lie on top of it."""
    layers = []
    if truth and len(keyframe.annotations):
        boxes = keyframe.annotations.boxes_N9
        layers.append(
            Outlines(boxes_N9=boxes, colours=[TRUTH_COLOUR] * len(boxes), captions=[""] * len(boxes), width=1.0)
        )
    if detections is not None:
        shown = detections.above(score)
        captions = [
            f"{CLASSES[label].replace('_', ' ')} {value:.2f}"
            for label, value in zip(shown.labels_K, shown.scores_K, strict=True)
        ]
        layers.append(
            Outlines(
                boxes_N9=shown.boxes_K9.astype(np.float64),
                colours=[CLASS_COLOURS[label] for label in shown.labels_K],
                captions=captions,
                width=1.8,
            )
        )
    return layers


def _draw_map(points_M5: Float32Array, layers: list[Outlines], reach_m: float, side: int) -> Image.Image:
    """Seen from above: x (forward) points up, y (left) points left; points by height, blue low and yellow high."""
    large = side * SMOOTHING
    scale = large / (2 * reach_m)
    image = Image.fromarray(_point_raster(points_M5, reach_m, large))
    pen = ImageDraw.Draw(image)
    font = _font(11 * SMOOTHING)
    for radius in range(10, int(reach_m * 1.5), 10):
        box = [large / 2 - radius * scale, large / 2 - radius * scale, large / 2 + radius * scale]
        pen.ellipse([*box, large / 2 + radius * scale], outline=(44, 52, 64), width=SMOOTHING)
        if radius < reach_m:
            pen.text((large / 2 + 4, large / 2 - radius * scale), f"{radius} m", fill=SOFT, font=font)
    own = np.array([[0.0, 0, 0, 4.6, 1.9, 1.7, 0, 0, 0]])
    own[0, 0] = 0.95  # the origin is the middle of the rear axle, not of the car
    _draw_footprint(pen, box_corners(own)[0, :4], SOFT, 2 * SMOOTHING, scale, large)
    for layer in layers:
        for corners, colour in zip(box_corners(layer.boxes_N9), layer.colours, strict=True):
            width = round(layer.width * 1.2 * SMOOTHING)
            _draw_footprint(pen, corners[:4], colour, width, scale, large)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _draw_footprint(
    pen: ImageDraw.ImageDraw, corners_43: FloatArray, colour: Colour, width: int, scale: float, large: int
) -> None:
    uv = np.stack([large / 2 - corners_43[:, 1] * scale, large / 2 - corners_43[:, 0] * scale], axis=1)
    pen.line([*uv.ravel().tolist(), *uv[0].tolist()], fill=colour, width=width, joint="curve")
    front = uv[[0, 3]].mean(axis=0)
    pen.line([*uv.mean(axis=0).tolist(), *front.tolist()], fill=colour, width=width)


def _point_raster(points_M5: Float32Array, reach_m: float, large: int) -> ByteArray:
    raster = np.empty((large, large, 3), np.uint8)
    raster[:] = (24, 28, 36)
    near = points_M5[(np.abs(points_M5[:, :2]) < reach_m).all(axis=1)]
    near = near[np.argsort(near[:, 2])]  # the highest is drawn last
    scale = large / (2 * reach_m)
    row = np.clip((reach_m - near[:, 0]) * scale, 0, large - 1).astype(np.int64)
    column = np.clip((reach_m - near[:, 1]) * scale, 0, large - 1).astype(np.int64)
    height = np.clip((near[:, 2:3] + 0.5) / 4.0, 0, 1)
    low, high = np.array([70, 105, 150]), np.array([240, 225, 140])
    colours = (low + height * (high - low)).astype(np.uint8)
    for down in range(SMOOTHING):
        for right in range(SMOOTHING):
            raster[np.minimum(row + down, large - 1), np.minimum(column + right, large - 1)] = colours
    return raster


def _draw_legend(
    canvas: Image.Image, top: int, band: int, keyframe: KeyFrame, detections: Detections | None, score: float
) -> None:
    pen = ImageDraw.Draw(canvas)
    font = _font(round(band * 0.42))
    x, y = band * 0.4, top + band * 0.28
    entries = list(zip(CLASSES, CLASS_COLOURS, strict=True)) if detections is not None else []
    for name, colour in [*entries, ("ground truth", TRUTH_COLOUR)]:
        pen.rectangle([x, y, x + band * 0.4, y + band * 0.4], fill=colour)
        pen.text((x + band * 0.55, y - band * 0.06), name.replace("_", " "), fill=INK, font=font)
        x += band * 1.1 + pen.textlength(name, font=font)
    said = f"{keyframe.scene} · {keyframe.token}"
    if detections is not None:
        said = f"{len(detections.above(score))} detections with a score of {score:g} or more · {said}"
    pen.text((canvas.width - band * 0.4 - pen.textlength(said, font=font), y - band * 0.06), said, fill=SOFT, font=font)


def _label(pen: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, colour: Colour, font: Font) -> None:
    """Write above a box's upper left corner, on a dark plate, within the image."""
    left, _, right, bottom = pen.textbbox((0, 0), text, font=font)
    x, y = max(0.0, corner[0]), max(0.0, corner[1] - bottom - 4)
    pen.rectangle([x, y, x + right - left + 6, y + bottom + 4], fill=BACKGROUND)
    pen.text((x + 3, y + 1), text, fill=colour, font=font)


def _font(size_px: int) -> Font:
    return ImageFont.load_default(max(9, size_px))
