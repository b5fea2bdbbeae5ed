"""Pictures of a keyframe: the boxes must be where the objects are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from udx.data.detections import Detections
from udx.data.frame import Annotations, KeyFrame, Sweep
from udx.errors import UdxError
from udx.geometry import CLASSES, CameraRig
from udx.runtime.draw import CLASS_COLOURS, draw_frame

SIZE = 160, 90


@pytest.fixture
def keyframe(tmp_path: Path) -> KeyFrame:
    """Two grey cameras, forward and backward, an almost empty sweep, and one annotated box ahead on the left."""
    paths = []
    for name in ("front", "back"):
        paths.append(tmp_path / f"{name}.png")
        Image.new("RGB", SIZE, (60, 60, 60)).save(paths[-1])
    np.array([[10, 10, 0, 100, 3]], np.float32).tofile(tmp_path / "sweep.pcd.bin")
    intrinsics = np.array([[80.0, 0, 80], [0, 80.0, 45], [0, 0, 1]])
    forward, backward = np.eye(4), np.eye(4)
    forward[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    backward[:3, :3] = [[0, 0, -1], [1, 0, 0], [0, -1, 0]]
    return KeyFrame(
        token="token",
        scene="scene",
        timestamp_us=0,
        image_paths=tuple(paths),
        rig=CameraRig(("CAM_FRONT", "CAM_BACK"), np.stack([intrinsics] * 2), np.stack([forward, backward])),
        sweeps=(Sweep(tmp_path / "sweep.pcd.bin", np.eye(4), 0.0),),
        global_T_ego=np.eye(4),
        annotations=Annotations(np.array([[12, 4, 0, 4, 2, 2, 0, 0, np.nan]]), np.array([0]), np.array([5])),
    )


def detections(x: float, score: float, label: int) -> Detections:
    box = np.array([[x, 4, 0, 4, 2, 2, 0, 0, 0]], np.float32)
    return Detections(boxes_K9=box, scores_K=np.array([score], np.float32), labels_K=np.array([label]))


def changed_pixels(picture: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that differ clearly."""
    rows, columns = np.nonzero(np.abs(picture.astype(int) - other).sum(axis=2) > 45)
    return rows, columns


def drawn(keyframe: KeyFrame, found: Detections | None, **options: object) -> np.ndarray:
    """The picture without its legend, 800 wide: a row of tiles 208 × 117, the map from x = 642."""
    picture = np.asarray(draw_frame(keyframe, found, width_px=800, **options))
    return picture[: picture.shape[0] - 30]


def test_a_detection_ahead_is_drawn_ahead_and_not_behind(keyframe: KeyFrame) -> None:
    bare = drawn(keyframe, None, truth=False)
    rows, columns = changed_pixels(drawn(keyframe, detections(12, 0.9, 5), truth=False), bare)
    tile_width = (bare.shape[1] - bare.shape[0]) // 3
    scale = (tile_width - 6) / 160
    # v = 45 − 80 · z/x and u = 80 − 80 · y/x: the box spans rows 37 to 53 of 90 and columns 40 to 63 of 160.
    # Its caption stands above it and may be longer.
    box = columns[(columns < tile_width) & (rows > 40 * scale)]
    assert box.min() == pytest.approx(40 * scale, abs=3)
    assert box.max() == pytest.approx(63 * scale, abs=3)
    assert not ((columns >= tile_width) & (columns < 2 * tile_width)).any()


def test_the_map_has_forward_up_and_left_left(keyframe: KeyFrame) -> None:
    bare = drawn(keyframe, None, truth=False, reach_m=20.0)
    rows, columns = changed_pixels(drawn(keyframe, detections(12, 0.9, 5), truth=False, reach_m=20.0), bare)
    side = bare.shape[0]
    columns = columns - (bare.shape[1] - side)
    on_map = columns >= 0
    # x 10 to 14 m of ±20 m lies at 15 to 25 % of the height, y 3 to 5 m at 37.5 to 42.5 % of the width.
    assert rows[on_map].min() / side == pytest.approx(0.15, abs=0.02)
    assert rows[on_map].max() / side == pytest.approx(0.25, abs=0.02)
    assert columns[on_map].min() / side == pytest.approx(0.375, abs=0.02)
    assert columns[on_map].max() / side == pytest.approx(0.425, abs=0.02)


def test_low_scores_and_truth_can_be_left_out(keyframe: KeyFrame) -> None:
    bare = drawn(keyframe, None, truth=False)
    hidden = drawn(keyframe, detections(12, 0.2, 5), truth=False)
    np.testing.assert_array_equal(bare, hidden)
    with_truth = drawn(keyframe, None)
    rows, _ = changed_pixels(with_truth, bare)
    assert len(rows) > 50
    brighter = with_truth.astype(int).sum(axis=2) > bare.astype(int).sum(axis=2) + 45
    assert brighter.sum() > 0.9 * len(rows)  # the ground truth is white; it may cross a label


def test_a_missing_image_is_named(keyframe: KeyFrame) -> None:
    keyframe.image_paths[1].unlink()
    with pytest.raises(UdxError, match=r"back\.png is missing"):
        draw_frame(keyframe)


def test_every_class_has_its_own_colour() -> None:
    assert len(set(CLASS_COLOURS)) == len(CLASSES)


def test_the_real_keyframe_is_drawn(keyframe_root: Path) -> None:
    from udx.data.nuscenes import load_keyframes

    (keyframe,) = load_keyframes(keyframe_root, "keyframe")
    picture = draw_frame(keyframe, width_px=1200)
    bare = draw_frame(keyframe, width_px=1200, truth=False)
    changed = np.abs(np.asarray(picture).astype(int) - np.asarray(bare)).sum(axis=2) > 60
    assert picture.width <= 1206
    assert 500 < changed.sum() < 0.1 * changed.size
