"""``udx doctor`` as a user runs it: here, and where nothing but the base install can be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BEYOND_THE_BASE = (
    "torch", "onnxruntime", "onnxscript", "triton", "nuscenes", "transformers", "accelerate", "safetensors", "scipy",
    "tensorrt", "tensorrt_rtx_bindings", "pycuda", "cuda", "matplotlib", "pandas", "jaxtyping", "beartype",
)  # fmt: skip

BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BEYOND_THE_BASE!r}:
            raise ModuleNotFoundError(f"{{name}} is not part of the base install", name=name)
sys.meta_path.insert(0, Blocker())
"""


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "udx", "doctor", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=Path(__file__).resolve().parents[2],
    )


@pytest.fixture
def base_install(tmp_path: Path) -> str:
    """A path for ``PYTHONPATH`` with which only the base install can be imported, in probes too."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    probe = [sys.executable, "-c", "import torch"]
    done = subprocess.run(probe, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert "torch is not part of the base install" in done.stderr, "another sitecustomize comes first"
    return str(tmp_path)


def test_it_works_in_a_base_install(base_install, tmp_path):
    report = tmp_path / "doctor.json"
    done = doctor("--json", str(report), PYTHONPATH=base_install)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    assert found["schema"] == "udx-doctor/1"
    for backend in found["backends"]:
        assert backend["run"]["verdict"] == "no" and backend["run"]["mend"]
    assert "pip install 'udx[cpu]'" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_backend_can_be_insisted_on(base_install):
    done = doctor("--require", "onnxruntime", PYTHONPATH=base_install)
    assert done.returncode == 2
    assert "udx: onnxruntime does not run here: it is not installed; pip install 'udx[cpu]'" in done.stderr


def test_it_finds_what_is_installed(tmp_path):
    pytest.importorskip("onnxruntime")
    report = tmp_path / "doctor.json"
    done = doctor("--json", str(report), "--require", "onnxruntime")
    assert done.returncode == 0, done.stderr
    backends = {backend["name"]: backend for backend in json.loads(report.read_text())["backends"]}
    assert set(backends) == {"onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"}
    assert backends["onnxruntime"]["run"]["verdict"] == "yes"
    assert "builds here" in done.stdout
