"""Calibration needs no torch: a deployment image with ONNX Runtime and the devkit quantizes what it is given."""

import subprocess
import sys

CALIBRATE = """
import contextlib, sys
from pathlib import Path

class NoTorch:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "torch":
            raise ImportError(name)

sys.meta_path.insert(0, NoTorch())
from udx.calibration.command import convert
file, root, out = map(Path, sys.argv[1:])
asked = {"file": file, "root": root, "out": out, "samples": 2, "plain": True, "precision": "int8"}
print(convert(asked, lambda title: contextlib.nullcontext(lambda done, total: None)).summary())
"""


def test_no_torch_is_needed(exports, two_scenes, tmp_path):
    arguments = [sys.executable, "-c", CALIBRATE, exports("lidar"), two_scenes, tmp_path / "o.onnx"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "layers in INT8 by percentile over 2 samples" in done.stdout
    assert (tmp_path / "o.onnx").is_file()
