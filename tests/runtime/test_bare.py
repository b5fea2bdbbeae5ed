"""A deployment: only what ``pip install udx[cpu]`` brings, and every command that runs an engine works.

All other distributions that are installed here are hidden from a process and from those that it starts: what tries to
import torch finds that there is none. That is quicker than an environment of its own, and held to the same list, the
requirements that udx declares.
"""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runtime.conftest import ring_rig
from udx.data.spec import CAMERAS

HIDE = """
import importlib.abc, os, sys
class Hidden(importlib.abc.MetaPathFinder):
    names = set(os.environ["UDX_TEST_HIDDEN"].split())
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""
ROOT = Path(__file__).resolve().parents[2]


def name_of(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def brought(distribution: str, extras: tuple[str, ...] = ()) -> set[str]:
    """A distribution and what it requires, and so on; extras only of the first."""
    found, waiting = set(), [(distribution, extras)]
    while waiting:
        name, wanted = waiting.pop()
        try:
            requirements = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for requirement in requirements:
            extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
            required = name_of(requirement)
            if (extra is None or extra.group(1) in wanted) and required not in found:
                waiting.append((required, ()))
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Run udx where nothing else is installed."""
    allowed = brought("udx", ("cpu",))
    assert {"numpy", "onnx", "onnxruntime", "pillow", "click", "rich"} <= allowed
    hidden = {
        module
        for module, distributions in metadata.packages_distributions().items()
        if not {name_of(one) for one in distributions} & allowed
    }
    assert {"torch", "nuscenes", "transformers", "triton"} <= hidden
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(HIDE)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "UDX_TEST_HIDDEN": " ".join(hidden), "COLUMNS": "200",
    }  # fmt: skip

    def run(*arguments: object, code: str = "from udx.cli import run; run()", status: int = 0) -> str:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run


def test_torch_is_truly_hidden(bare):
    assert "gone" in bare(code="try:\n import torch\nexcept ImportError:\n print('gone')")
    assert "udx[train]" in bare("predict", "--help", code="from udx.runtime import open_engine\n"
                                "from pathlib import Path\nfrom udx.errors import UdxError\n"
                                "try: open_engine(Path('.'))\nexcept UdxError as error: print(error)")  # fmt: skip


def test_bench(bare, make_engine, tmp_path):
    engine, report = make_engine(modality="fusion"), tmp_path / "report.json"
    bare(
        "bench", "--engine", engine, "--blocks", 2, "--warmup", 1, "--json", report, "--html", tmp_path / "report.html"
    )
    assert json.loads(report.read_text())
    assert "<html" in (tmp_path / "report.html").read_text()


def test_doctor(bare, tmp_path):
    bare("doctor", "--require", "onnxruntime", "--json", tmp_path / "doctor.json")
    found = {one["name"]: one for one in json.loads((tmp_path / "doctor.json").read_text())["backends"]}
    assert found["onnxruntime"]["run"]["verdict"] == "yes"
    assert found["tensorrt-rtx"]["run"]["verdict"] == "no"


@pytest.fixture
def drive(tmp_path):
    """Two frames of six cameras and a LiDAR, and the calibration of all."""
    rng = np.random.default_rng(0)
    for name in CAMERAS:
        (tmp_path / "drive" / name).mkdir(parents=True)
        for at in range(2):
            pixels = rng.integers(256, size=(90, 160, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "drive" / name / f"{at}.jpg")
    (tmp_path / "lidar").mkdir()
    np.save(tmp_path / "lidar" / "0.npy", rng.uniform(-8, 8, (3000, 4)).astype(np.float32))
    np.save(tmp_path / "lidar" / "1.npy", rng.uniform(-8, 8, (200, 4)).astype(np.float32))
    (tmp_path / "rig.json").write_text(json.dumps(ring_rig(160, 90).to_json()))
    return tmp_path


def test_predict_on_a_folder(bare, make_engine, drive):
    engine, source = make_engine(modality="fusion"), ("--images", drive / "drive", "--points", drive / "lidar")
    said = bare("predict", "--engine", engine, *source, "--rig", drive / "rig.json", "--score", 0,
                "--png", drive / "pictures", "--json", drive / "found.json")  # fmt: skip
    assert "14 boxes with a score of at least 0 in 2 frames" in said
    assert re.search(r"frame 0 has [1-9]\d* points more than the engine's buffer holds", said)
    assert "frame 1" not in said
    found = json.loads((drive / "found.json").read_text())
    assert {len(frame["boxes"]) for frame in found.values()} == {7}
    assert sorted(path.name for path in (drive / "pictures").iterdir()) == ["0.png", "1.png"]
    with Image.open(drive / "pictures" / "0.png") as picture:
        assert picture.width > 2000


def test_predict_on_one_frame_with_the_engine_s_own_rig(bare, make_engine, drive):
    for name in CAMERAS:
        (drive / "drive" / name / "0.jpg").rename(drive / "drive" / f"{name}.jpg")
    bare("predict", "--engine", make_engine(modality="cam"), "--images", drive / "drive", "--png", drive / "one.png")
    with Image.open(drive / "one.png") as picture:
        assert picture.format == "PNG"
    bare("predict", "--engine", make_engine(modality="lidar"), "--points", drive / "lidar" / "1.npy",
         "--png", drive / "map.png")  # fmt: skip
    with Image.open(drive / "map.png") as picture:
        assert picture.width == 2400


def test_a_dataroot_is_read(bare, make_engine, world_root, tmp_path):
    engine, source = make_engine(modality="fusion"), ("--data", world_root)
    bare("predict", "--engine", engine, *source, "--json", tmp_path / "one.json")
    assert len(json.loads((tmp_path / "one.json").read_text())["boxes"]) == 7
    said = bare("predict", "--engine", engine, *source, "--split", "val", "--json", tmp_path / "all.json")
    assert "3 keyframes of split val" in said
    submission = json.loads((tmp_path / "all.json").read_text())
    assert len(submission["results"]) == 3 and submission["meta"]["use_camera"]
    bare("bench", "--engine", engine, *source, "--blocks", 2, "--warmup", 1, "--json", tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["engine"]["accuracy"] is None
    assert "files: no problem" in bare("data", "check", world_root)
    assert next(iter(submission["results"])) in bare("predict", "--list-samples", *source)


def test_what_needs_the_devkit_says_so(bare, make_engine, world_root):
    engine, source = make_engine(modality="fusion"), ("--data", world_root)
    for command in (("eval", "--engine", engine), ("bench", "--engine", engine, "--accuracy")):
        said = bare(*command, *source, status=2)
        assert "nuscenes-devkit, which is not installed; pip install 'udx[train]'" in said
    assert "torch is not installed" in bare("train", *source, status=2)


def test_runs_are_listed(bare, tmp_path):
    assert "runs, mAP and NDS in %" in bare("runs", tmp_path)


def test_a_mistake_is_one_sentence(bare, make_engine, drive):
    said = bare("predict", "--engine", make_engine(modality="cam"), "--images", drive / "lidar", status=2)
    assert "lidar has no image of camera CAM_FRONT_LEFT" in said
