"""A calibration's tensors in a file: a program that has them and plain ONNX Runtime finds the boxes that udx finds."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.build.exported import exported_model, write_sealed
from tests.tiny import ring_of_cameras
from udx.cli import main
from udx.commands import Source, predict_folder
from udx.data.rig_file import read_rig
from udx.data.spec import CAMERAS
from udx.errors import UdxError
from udx.runtime.calibration_file import calibration_arrays, parse_size, write_calibration
from udx.runtime.onnx_file import read_onnx

SIZE = (160, 90)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return write_sealed(tmp_path_factory.mktemp("engine") / "cam.onnx", *exported_model("tiny", "cam"))


@pytest.fixture(scope="module")
def rig_file(tmp_path_factory):
    """A rig that is not the engine's own, for images of ``SIZE``; cameras in another order, and one too many."""
    rig = ring_of_cameras(0.3)
    scale = np.diag([SIZE[0] / 64, SIZE[0] / 64, 1.0])
    fields = rig.with_image_transforms(np.stack([scale] * 6)).to_json()
    order = [3, 1, 0, 2, 5, 4, 0]
    fields = {name: [values[at] for at in order] for name, values in fields.items()}
    fields["names"][-1] = "CAM_SPARE"
    lidar = np.eye(4)
    lidar[:3, 3] = [1.0, 0.0, 1.8]
    path = tmp_path_factory.mktemp("rig") / "rig.json"
    path.write_text(json.dumps(fields | {"ego_T_lidar": lidar.tolist()}))
    return path


def bottom_of(image, network_T_image, width, height):
    """What a program without udx does with an image: scale it, keep the bottom."""
    scaled = image.resize((width, round(image.height * network_T_image[0, 0])), Image.Resampling.BILINEAR)
    return np.asarray(scaled.crop((0, scaled.height - height, width, scaled.height)))


def test_plain_onnx_runtime_finds_the_boxes_that_udx_finds_with_that_rig(engine, rig_file, tmp_path):
    rng = np.random.default_rng(0)
    frame = tmp_path / "frame"
    frame.mkdir()
    for name in CAMERAS:
        Image.fromarray(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(frame / f"{name}.png")
    source = Source(images=frame, rig=rig_file)
    found, _ = predict_folder(
        engine, source=source, backend="onnxruntime", score=0.0, png=None, progress=lambda *_: None
    )
    (expected,) = found.values()

    out = tmp_path / "plan.npz"
    asked = ["rig", str(rig_file), "--engine", str(engine), "--image-size", "160x90", "--out", str(out)]
    said = CliRunner().invoke(main, asked)
    assert said.exit_code == 0 and "pool_index, pool_offsets" in said.output
    plan = np.load(out, allow_pickle=False)
    images = np.stack(
        [bottom_of(Image.open(frame / f"{name}.png"), plan["network_T_image"], 64, 32) for name in plan["cameras"]]
    )
    session = ort.InferenceSession(str(engine), providers=["CPUExecutionProvider"])
    given = {"images": images, "pool_index": plan["pool_index"], "pool_offsets": plan["pool_offsets"]}
    boxes, scores, labels = session.run(None, given)
    np.testing.assert_array_equal(boxes, expected.boxes_K9)
    np.testing.assert_array_equal(scores, expected.scores_K)
    np.testing.assert_array_equal(labels, expected.labels_K)
    assert plan["ego_T_lidar"][2, 3] == 1.8


def test_intrinsics_are_at_the_network_s_size_unless_another_is_given(engine, rig_file):
    spec = read_onnx(engine).manifest.spec
    calibration = read_rig(rig_file)
    scaled = calibration_arrays(calibration, spec, SIZE)
    np.testing.assert_allclose(scaled["intrinsics"][:, 0, 0], 40.0)
    as_given = calibration_arrays(calibration, spec)
    np.testing.assert_array_equal(as_given["network_T_image"], np.eye(3))
    np.testing.assert_allclose(as_given["intrinsics"][:, 0, 0], 40.0 * SIZE[0] / 64)
    assert not np.array_equal(scaled["pool_index"], as_given["pool_index"])


def test_a_plan_as_the_page_computes_it(engine, rig_file):
    """docs/pooling-plan.md, word by word, in plain loops."""
    spec = read_onnx(engine).manifest.spec
    arrays = calibration_arrays(read_rig(rig_file), spec, SIZE)
    frustum, grid = spec.camera.frustum, spec.grid
    height, width = frustum.feature_shape
    rows, columns = grid.shape
    cell_of = []
    for intrinsics, pose in zip(arrays["intrinsics"], arrays["ego_T_cam"], strict=True):
        for depth_bin in range(frustum.depth_bins):
            for row in range(height):
                for column in range(width):
                    u, v = ((at + 0.5) * frustum.stride_px - 0.5 for at in (column, row))
                    depth = frustum.depth_min_m + frustum.depth_step_m * depth_bin
                    point = pose[:3, :3] @ np.linalg.inv(intrinsics) @ [u * depth, v * depth, depth] + pose[:3, 3]
                    across, along = (point[:2] - [grid.x_min, grid.y_min]) / grid.cell
                    inside = 0 <= across < columns and 0 <= along < rows
                    inside = inside and spec.z_range_m[0] <= point[2] < spec.z_range_m[1]
                    cell_of.append(int(along) * columns + int(across) if inside else rows * columns)
    order = sorted(range(len(cell_of)), key=lambda point: cell_of[point])
    offsets = [sum(cell < upto for cell in cell_of) for upto in (*range(0, rows * columns, 97), rows * columns)]
    np.testing.assert_array_equal(arrays["pool_index"], order)
    np.testing.assert_array_equal(arrays["pool_offsets"][[*range(0, rows * columns, 97), -1]], offsets)


def test_what_does_not_fit_is_refused(engine, rig_file, tmp_path):
    lidar = write_sealed(tmp_path / "lidar.onnx", *exported_model("tiny", "lidar"))
    with pytest.raises(UdxError, match="a lidar detector has no cameras"):
        write_calibration(rig_file, lidar, tmp_path / "plan.npz")
    with pytest.raises(UdxError, match=r"images of 0 × 90 px cannot be"):
        write_calibration(rig_file, engine, tmp_path / "plan.npz", (0, 90))
    few = json.loads(rig_file.read_text())
    few["names"][0] = "CAM_OTHER"
    (tmp_path / "few.json").write_text(json.dumps(few))
    with pytest.raises(UdxError, match="does not fit the detector"):
        write_calibration(tmp_path / "few.json", engine, tmp_path / "plan.npz")
    assert not (tmp_path / "plan.npz").exists()


@pytest.mark.parametrize("text", ["", "1600", "1600x", "x900", "1600x-9", "1600x900x3", "²x3", "9" * 30 + "x1"])
def test_a_size_is_two_numbers(text):
    with pytest.raises(UdxError, match="is no size of an image; give its width and height in pixels, as 1600x900"):
        parse_size(text)
    assert parse_size("1600X900") == (1600, 900)


def test_it_needs_no_torch():
    code = "import sys, udx.runtime.calibration_file; assert not {'torch', 'onnxruntime'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
