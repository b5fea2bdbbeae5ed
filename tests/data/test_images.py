from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from udx.data.images import ImageChange, ImageWarp, load_image
from udx.errors import UdxError

SOURCE = (800, 450)
TARGET = (352, 128)
changes = st.builds(
    ImageChange,
    resize=st.floats(0.8, 1.3),
    shift_x=st.floats(-0.1, 0.1),
    shift_y=st.floats(-0.1, 0.05),
    flip=st.booleans(),
    rotation_rad=st.floats(-0.1, 0.1),
)


def marker(size, u, v, sigma):
    """A bright spot at a sub-pixel position."""
    columns, rows = np.arange(size[0]), np.arange(size[1])
    spot = np.exp(-((columns - u) ** 2) / (2 * sigma**2)) * np.exp(-((rows - v) ** 2) / (2 * sigma**2))[:, None]
    return Image.fromarray(np.round(250 * spot).astype(np.uint8)).convert("RGB")


def centroid(image):
    weight = image[..., 0].astype(float)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def moved(matrix, u, v):
    return (matrix @ [u, v, 1.0])[:2]


def test_pixel_transform_by_hand():
    # 1600 → 400 is a quarter; 900 / 4 = 225 rows, of which the top 225 − 128 = 97 go.
    matrix = ImageWarp((1600, 900), (400, 128)).new_T_old
    assert matrix.tolist() == [[0.25, 0, -0.375], [0, 0.25, -0.375 - 97], [0, 0, 1]]
    # The centre of the first four source pixels is the centre of the first target pixel.
    assert moved(matrix, 1.5, 97 * 4 + 1.5) == pytest.approx([0, 0])


def test_flip_and_rotation_by_hand():
    flipped = ImageWarp((10, 4), (10, 4), ImageChange(flip=True)).new_T_old
    assert moved(flipped, 0, 1) == pytest.approx([9, 1])
    turned = ImageWarp((11, 11), (11, 11), ImageChange(rotation_rad=np.pi / 2)).new_T_old
    assert moved(turned, 10, 5) == pytest.approx([5, 10])  # from the right to the bottom: u turns towards v
    assert moved(turned, 5, 5) == pytest.approx([5, 5])


def test_same_size_is_the_same_image():
    noise = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert np.array_equal(ImageWarp((6, 4), (6, 4))(Image.fromarray(noise)), noise)


def test_bottom_is_kept_and_flip_mirrors_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    assert np.array_equal(ImageWarp((6, 8), (6, 4))(Image.fromarray(noise)), noise[4:])
    warp = ImageWarp((6, 8), (6, 4), ImageChange(flip=True))
    assert np.array_equal(warp(Image.fromarray(noise)), noise[4:, ::-1])


def test_quarter_turn_moves_whole_pixels():
    noise = np.random.default_rng(0).integers(0, 256, (11, 11, 3), dtype=np.uint8)
    warp = ImageWarp((11, 11), (11, 11), ImageChange(rotation_rad=np.pi / 2))
    turned, expected = warp(Image.fromarray(noise)), np.rot90(noise, k=-1)
    assert np.abs(turned[1:-1, 1:-1].astype(int) - expected[1:-1, 1:-1]).max() <= 1  # Pillow rounds down


def test_beyond_the_image_is_black():
    white = Image.new("RGB", (100, 50), "white")
    padded = ImageWarp((100, 50), (100, 80))(white)  # the target is taller than the image: it has no top
    assert padded[:30].max() == 0
    assert padded[30:].min() == 255
    shrunk = ImageWarp((100, 50), (100, 50), ImageChange(resize=0.5))(white)
    assert shrunk[25:, 25:75].min() == 255
    assert shrunk.sum() == 25 * 50 * 3 * 255


def test_image_that_is_wholly_out_of_sight():
    out = ImageWarp((100, 50), (100, 50), ImageChange(shift_x=3.0))(Image.new("RGB", (100, 50), "white"))
    assert out.shape == (50, 100, 3)
    assert out.max() == 0


@settings(max_examples=60)
@given(changes, st.floats(30, 770), st.floats(30, 420))
def test_marker_lands_where_the_matrix_says(change, u, v):
    warp = ImageWarp(SOURCE, TARGET, change)
    expected = moved(warp.new_T_old, u, v)
    sigma = 2.0
    # Its surroundings must be in sight, of the crop before it is turned as well as of what is left afterwards.
    cropped = moved(ImageWarp(SOURCE, TARGET, replace(change, rotation_rad=0.0)).new_T_old, u, v)
    assume(all(10 < spot[0] < TARGET[0] - 11 and 10 < spot[1] < TARGET[1] - 11 for spot in (cropped, expected)))
    found = centroid(warp(marker(SOURCE, u, v, sigma / warp.scale)))
    assert found == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("target", [(352, 128), (704, 256), (1600, 900)])
def test_smaller_jpeg_decoding_keeps_geometry(tmp_path, target):
    path = tmp_path / "spot.jpg"
    u, v = 801.3, 701.7
    marker((1600, 900), u, v, 2 * 1600 / target[0]).save(path, quality=98)
    image, new_T_old = load_image(path, target, ImageChange())
    assert image.shape == (target[1], target[0], 3)
    assert centroid(image) == pytest.approx(moved(new_T_old, u, v), abs=0.06)


def test_smaller_jpeg_decoding_keeps_content(keyframe_root):
    path = next((keyframe_root / "samples" / "CAM_FRONT").glob("*.jpg"))
    quick, new_T_old = load_image(path, TARGET, ImageChange())
    with Image.open(path) as image:
        warp = ImageWarp(image.size, TARGET)
        whole = warp(image.convert("RGB"))
    assert np.array_equal(new_T_old, warp.new_T_old)
    assert np.abs(quick.astype(int) - whole.astype(int)).mean() < 1.5


def test_grey_image_becomes_rgb(tmp_path):
    Image.new("L", (32, 16), 77).save(tmp_path / "grey.jpg")
    image, _ = load_image(tmp_path / "grey.jpg", (32, 16), ImageChange())
    assert image.shape == (16, 32, 3)
    assert np.abs(image.astype(int) - 77).max() <= 1


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (255, 0), (256, 1), (0x8000, 128), (65535, 255)])
def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path, value, expected):
    Image.fromarray(np.full((16, 32), value, np.uint16)).save(tmp_path / "deep.png")
    image, _ = load_image(tmp_path / "deep.png", (32, 16), ImageChange())
    assert (image == expected).all()


def test_a_size_that_no_image_has():
    for source, target in (((0, 4), (4, 4)), ((4, 4), (4, -1)), ((4, 10**400), (4, 4))):
        with pytest.raises(ValueError, match="a width and a height of 1 px or more"):
            ImageWarp(source, target)


def test_missing_image(tmp_path):
    with pytest.raises(UdxError, match=r"image .*nothing\.jpg is missing; restore it"):
        load_image(tmp_path / "nothing.jpg", TARGET, ImageChange())


@pytest.mark.parametrize("keep", [0, 10, 300, 2000])
def test_corrupt_jpeg(tmp_path, keep):
    whole, broken = tmp_path / "whole.jpg", tmp_path / "broken.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    broken.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(UdxError, match=r"image .*broken\.jpg cannot be decoded .*; restore it"):
        load_image(broken, TARGET, ImageChange())


def test_image_change_must_be_possible():
    with pytest.raises(ValueError, match="positive resize"):
        ImageChange(resize=0.0)
    with pytest.raises(ValueError, match="finite"):
        ImageChange(rotation_rad=float("nan"))
