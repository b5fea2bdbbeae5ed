"""Camera images at the network's size, and the exact pixel transform that goes with each.

Pixel coordinates are (u, v) with whole numbers at pixel centres; every ``new_T_old`` is a 3×3 matrix on them.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from udx.errors import UdxError, first_line
from udx.files import read_bytes
from udx.geometry.arrays import ByteArray, FloatArray
from udx.geometry.se3 import linear_inverse

FORMATS: Final = ("JPEG", "PNG")
"""Pillow knows more than forty, one of which starts another program on the content of the file."""
MAX_IMAGE_BYTES: Final = 256 * 2**20
MAX_IMAGE_PIXELS: Final = 64 * 2**20
MAX_SCANS: Final = 200
"""Scans of a JPEG: progressive ones have about ten, and each is decoded at the whole size."""
START_OF_SCAN: Final = b"\xff\xda"
EDGE_TOLERANCE_PX: Final = 1e-6

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # ``MAX_IMAGE_PIXELS`` here is stricter

Size = tuple[int, int]
"""(width, height) in pixels, as Pillow has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageChange:
    """What augmentation does to one image: resize, move the crop, flip, rotate, in this order.

    ``resize`` multiplies the scale that fits the image to the network's width; a crop moves right and down by
    ``shift_x`` widths and ``shift_y`` heights of the network's image; a positive rotation about the centre turns
    u towards v, which looks clockwise.
    """

    resize: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    flip: bool = False
    rotation_rad: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite([self.shift_x, self.shift_y, self.rotation_rad]).all() and 0 < self.resize < np.inf):
            raise ValueError(f"an image change needs finite numbers and a positive resize, not {self}")


@dataclass(frozen=True, slots=True)
class ImageWarp:
    """The way of one image from ``source`` to ``target`` size: scale to the width, keep the bottom, then ``change``."""

    source: Size
    target: Size
    change: ImageChange = ImageChange()

    def __post_init__(self) -> None:
        if not all(1 <= side <= MAX_IMAGE_PIXELS for side in (*self.source, *self.target)):
            raise ValueError(f"an image has a width and a height of 1 px or more, not {self.source} or {self.target}")

    @property
    def scale(self) -> float:
        """Target pixels per source pixel."""
        return self.change.resize * self.target[0] / self.source[0]

    @property
    def crop_px(self) -> tuple[int, int]:
        """(left, top) of the crop in the scaled image; negative where the target reaches beyond it."""
        spare_x = self.source[0] * self.scale - self.target[0]
        spare_y = self.source[1] * self.scale - self.target[1]
        left = spare_x / 2 + self.change.shift_x * self.target[0]
        top = spare_y + self.change.shift_y * self.target[1]
        return int(np.floor(left + EDGE_TOLERANCE_PX)), int(np.floor(top + EDGE_TOLERANCE_PX))

    @property
    def new_T_old(self) -> FloatArray:
        """Pixel of the warped image from the pixel of the file: (u + ½) · scale − ½ − crop, flipped and rotated."""
        scale, (left, top) = self.scale, self.crop_px
        half = (scale - 1) / 2
        matrix = np.array([[scale, 0.0, half - left], [0.0, scale, half - top], [0.0, 0.0, 1.0]])
        if self.change.flip:
            matrix = np.array([[-1.0, 0.0, self.target[0] - 1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ matrix
        if self.change.rotation_rad:
            matrix = self._rotation() @ matrix
        return matrix

    def __call__(self, image: Image.Image) -> ByteArray:
        """Warp an image, which may have been decoded at an even fraction of ``source``; beyond its edge is black."""
        warped = self._cropped(image)
        if self.change.flip:
            warped = warped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.change.rotation_rad:
            # Pillow's coordinates are whole at pixel edges, and it asks where an output pixel comes from.
            edges = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
            old_T_new = edges @ linear_inverse(self._rotation()) @ linear_inverse(edges)
            warped = warped.transform(
                self.target, Image.Transform.AFFINE, tuple(old_T_new[:2].ravel()), Image.Resampling.BILINEAR
            )
        return np.asarray(warped)

    def _rotation(self) -> FloatArray:
        cos, sin = np.cos(self.change.rotation_rad), np.sin(self.change.rotation_rad)
        u, v = (self.target[0] - 1) / 2, (self.target[1] - 1) / 2
        return np.array([[cos, -sin, u - u * cos + v * sin], [sin, cos, v - u * sin - v * cos], [0.0, 0.0, 1.0]])

    def _cropped(self, image: Image.Image) -> Image.Image:
        """Scale and crop with an antialiasing filter in one pass; only whole target pixels are resampled."""
        (x0, x1), (y0, y1) = (
            (max(0, -crop), min(target, int(np.floor(source * self.scale - crop + EDGE_TOLERANCE_PX))))
            for crop, source, target in zip(self.crop_px, self.source, self.target, strict=True)
        )
        canvas = Image.new("RGB", self.target)
        if x1 <= x0 or y1 <= y0:
            return canvas
        decoded = image.width / self.source[0]
        left, top = self.crop_px
        edges = np.array([x0 + left, y0 + top, x1 + left, y1 + top]) * (decoded / self.scale)
        box = tuple(np.clip(edges, 0, [image.width, image.height] * 2).tolist())
        part = image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box)
        if part.size == self.target:
            return part
        canvas.paste(part, (x0, y0))
        return canvas


def load_image(path: Path, target: Size, change: ImageChange) -> tuple[ByteArray, FloatArray]:
    """Decode an image to RGB (H, W, 3) at ``target`` size; return it with its ``new_T_old``.

    Raises:
        UdxError: the file is missing, is no JPEG or PNG, is cut off, or is too large.
    """
    with opened(path) as image:
        warp = ImageWarp(image.size, target, change)
        _decode_smaller(image, warp)
        return warp(_in_rgb(image)), warp.new_T_old


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; what goes wrong with the file, here or while the block decodes it, is told as ``UdxError``.

    Raises:
        UdxError: the file is missing, is no JPEG or PNG, is cut off, or is too large.
    """
    if not path.exists():
        raise UdxError(f"image {path} is missing; restore it or unpack its archive again")
    content = read_bytes(path, MAX_IMAGE_BYTES)
    if content.count(START_OF_SCAN) > MAX_SCANS:
        raise UdxError(f"image {path} has more than {MAX_SCANS} scans, which takes hours to decode; restore it")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise UdxError(f"image {path} has {image.size} pixels, more than udx reads; restore it")
            yield image
    except UdxError:
        raise
    except Exception as error:  # what decoders raise on damaged files is not documented
        raise UdxError(
            f"image {path} cannot be decoded as JPEG or PNG ({first_line(error)}); restore it from its archive"
        ) from error


def _in_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB; Pillow would cut 16-bit grey values off at 255."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64) >> 8
        image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    return image.convert("RGB")


def _decode_smaller(image: Image.Image, warp: ImageWarp) -> None:
    """Let the JPEG decoder halve the image where at least twice the needed resolution remains.

    The decoder averages whole blocks, so pixel edges stay where they were, provided that the size divides evenly.
    """
    for shrink in (4, 2):
        divides = image.width % shrink == 0 and image.height % shrink == 0
        if divides and warp.scale * shrink <= 0.5:
            image.draft("RGB", (image.width // shrink, image.height // shrink))
            return
