"""What ``udx predict`` detects in, and what it makes of it; the whole of it runs in ``tests/runtime/test_bare.py``."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.build.detectors import write_detector
from udx.commands import Source, predict_source
from udx.errors import UdxError

HERE = Path("somewhere")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"root": HERE, "sample": "a", "split": "val"}, "give one of them"),
        ({"images": HERE, "sample": "a", "root": HERE}, "give one of them"),
        ({"images": HERE, "root": HERE}, "--images and --points are not"),
        ({"points": HERE, "root": HERE}, "--images and --points are not"),
        ({"root": HERE, "sample": "a", "rig": HERE}, "a dataroot holds its own calibration; leave --rig out"),
    ],
)
def test_exactly_one_source_is_named(fields, said):
    with pytest.raises(UdxError, match=said):
        Source(**fields)


def test_pictures_are_not_drawn_over_what_is_read(engine, tmp_path):
    for name in ("b", "a"):
        np.save(tmp_path / f"{name}.npy", np.ones((3, 4), np.float32))
    (tmp_path / "a.png").hardlink_to(tmp_path / "b.npy")
    with pytest.raises(UdxError, match=r"--png would write over .*a\.png, which is read"):
        predict(engine, source={"points": tmp_path}, png=tmp_path)
    with pytest.raises(UdxError, match="--png would write over"):
        predict(engine, source={"points": tmp_path / "a.npy"}, png=tmp_path / "a.npy")


def predict(engine, **fields):
    return predict_source(
        engine,
        Source(**fields.pop("source")),
        backend=fields.pop("backend", "auto"),
        score=0.0,
        png=fields.pop("png", None),
        progress=lambda done, total: None,
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return write_detector(tmp_path_factory.mktemp("engine") / "student.onnx")


def test_a_frame_of_points_alone(engine, tmp_path):
    points = tmp_path / "one.npy"
    np.save(points, np.random.default_rng(0).uniform(-7, 7, (3000, 4)).astype(np.float32))
    found = predict(engine, source={"points": points}, png=tmp_path / "map.png")
    assert list(found.frames) == ["one"]
    assert len(found.json["one"]["boxes"]) == len(found.frames["one"]) == 7
    beyond, said = found.lines
    assert beyond.startswith("frame one has ") and "points more than the engine's buffer holds" in beyond
    assert said == f"7 boxes with a score of at least 0 in 1 frame; drawn in {tmp_path / 'map.png'}"
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width == 2400


def test_many_frames_are_drawn_into_a_folder(engine, tmp_path):
    (tmp_path / "lidar").mkdir()
    for name in ("b", "a"):
        np.save(tmp_path / "lidar" / f"{name}.npy", np.ones((3, 4), np.float32))
    found = predict(engine, source={"points": tmp_path / "lidar"}, png=tmp_path / "pictures")
    assert list(found.frames) == ["a", "b"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.bin", b"", r"empty\.bin has 0 bytes"),
        ("cut.bin", bytes(30), r"cut\.bin has 30 bytes, not a multiple of 20: it is cut off"),
        ("text.npy", b"no array", r"text\.npy is no whole \.npy file"),
    ],
)
def test_files_of_points_that_cannot_be_read(engine, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UdxError, match=said):
        predict(engine, source={"points": tmp_path / name})


def test_backends_and_rigs_that_do_not_fit(engine, tmp_path):
    np.save(tmp_path / "one.npy", np.ones((3, 4)))
    for backend in ("tensorrt", "torch"):
        with pytest.raises(UdxError, match=f"is an ONNX file, which {backend} does not run; choose one of onnxruntime"):
            predict(engine, source={"points": tmp_path / "one.npy"}, backend=backend)
    rig = tmp_path / "rig.json"
    rig.write_text(json.dumps({"names": ["A"], "intrinsics": [[[1, 0, 0], [0, float("nan"), 0], [0, 0, 1]]]}))
    with pytest.raises(UdxError, match=r"rig\.json is not valid JSON \(it holds NaN"):
        predict(engine, source={"points": tmp_path / "one.npy", "rig": rig})
