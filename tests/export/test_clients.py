"""Other programs that are installed here read exports and find the same boxes (pip install 'udx[clients]' for more)."""

import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from tests.build.exported import exported_model, frame_of
from udx.data.detections import Detections
from udx.export.parity import agreement, values_of
from udx.export.portable import to_portable

WORKER = Path(__file__).resolve().parents[2] / "benchmarks" / "clients_worker.py"
OUTPUTS = ("boxes", "scores", "labels")


def clients():
    spec = importlib.util.spec_from_file_location("clients_worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    return {name: distribution for name, (distribution, _) in worker.CLIENTS.items()}


CLIENTS = clients()
FOR_PORTABLE = {name for name in CLIENTS if name in ("openvino", "tract") or name.startswith("version_converter")}


def detections(values):
    return Detections(boxes_K9=values["boxes"], scores_K=values["scores"], labels_K=values["labels"])


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A folder with a file of all operators, the portable one and a frame; and what ONNX Runtime finds."""
    folder = tmp_path_factory.mktemp("clients")
    model, manifest = exported_model("tiny", "fusion")
    frame = frame_of(manifest)
    np.savez(folder / "inputs.npz", **frame)
    (folder / "normal.onnx").write_bytes(model.SerializeToString())
    (folder / "portable.onnx").write_bytes(to_portable(model).SerializeToString())
    return folder, detections(values_of(model, OUTPUTS, frame))


@pytest.mark.parametrize("kind", ["normal", "portable"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_finds_every_box(client, kind, case):
    try:
        metadata.version(CLIENTS[client])
    except metadata.PackageNotFoundError:
        pytest.skip(f"{CLIENTS[client]} is not installed; pip install 'udx[clients]' brings it")
    if kind == "normal" and client in FOR_PORTABLE:
        pytest.skip(f"{client} knows no functions; it reads what udx export --portable writes")
    folder, reference = case
    outputs = folder / "outputs.npz"
    outputs.unlink(missing_ok=True)
    command = [sys.executable, str(WORKER), client, *map(str, (folder / f"{kind}.onnx", folder / "inputs.npz"))]
    done = subprocess.run([*command, str(outputs)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    agreed = agreement(reference, detections(np.load(outputs)))
    assert agreed.matched == agreed.boxes > 10
    assert agreed.score_max < 1e-4


def test_a_client_that_cannot_says_why(case, tmp_path):
    folder, _ = case
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    given = [str(tmp_path / "broken.onnx"), str(folder / "inputs.npz"), str(tmp_path / "outputs.npz")]
    done = subprocess.run([sys.executable, str(WORKER), "onnxruntime", *given], capture_output=True, text=True)
    version, why = done.stdout.splitlines()
    assert (done.returncode, version) == (1, metadata.version("onnxruntime"))
    assert "broken.onnx" in why and not (tmp_path / "outputs.npz").exists()
