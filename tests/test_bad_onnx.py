"""ONNX files from strangers, at the command line: one sentence, exit status 2, nothing written, whatever the verb."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.build.detectors import voxelizing_detector
from udx import cli

GIGABYTES_100 = 25_000_000_000
"""As many floats are 93 GiB."""


def truncated(model, path):
    path.write_bytes(model.SerializeToString()[:-300])


def noise(model, path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def foreign(model, path):
    del model.metadata_props[:]
    onnx.save(model, path)


def old(model, path):
    model.opset_import[0].version = 11
    onnx.save(model, path)


def rewired(model, path):
    """A detector that computes something else than the one whose manifest it carries."""
    next(node for node in model.graph.node if node.op_type == "Sin").op_type = "Cos"
    onnx.save(model, path)


def of_another_sensor(model, path):
    (entry,) = model.metadata_props
    entry.value = entry.value.replace('"max_points": 500', '"max_points": 600')
    onnx.save(model, path)


def leaving_its_folder(model, path):
    (path.parent.parent / "secret.bin").write_bytes(bytes(4096))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "box_w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    onnx.save(model, path)


def huge_weight(model, path):
    model.graph.initializer[0].dims[:] = [GIGABYTES_100]
    onnx.save(model, path)


def huge_value(model, path):
    model.graph.value_info.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, [GIGABYTES_100]))
    onnx.save(model, path)


BROKEN = {
    truncated: "damaged or not an ONNX file",
    noise: "damaged or not an ONNX file",
    foreign: "without a udx manifest",
    old: "is of ONNX opset 11, and udx reads 20 or later",
    rewired: "it was changed after its export",
    of_another_sensor: "where its manifest asks for points float32[600, 5]",
    leaving_its_folder: "outside its folder; do not trust it",
    huge_weight: "93 GiB; do not trust it",
    huge_value: "93 GiB; do not trust it",
}
VERBS = {
    "check": lambda file, world: ("check", file, "--json", "out.json"),
    "bench": lambda file, world: ("bench", "--engine", file, "--json", "out.json", "--html", "out.html"),
    "bench against": lambda file, world: ("bench", "--engine", file, "--against", file, "--json", "out.json"),
    "build": lambda file, world: ("build", file, "--segments", "onnxruntime", "--out", "out.plan", "--json", "o.json"),
    "build rtx": lambda file, world: ("build", file, "--backend", "tensorrt-rtx", "--out", "out.plan"),
    "eval": lambda file, world: ("eval", "--engine", file, "--data", world, "--json", "out.json"),
    "predict": lambda file, world: (
        "predict", "--engine", file, "--data", world, "--sample", "0", "--png", "out.png", "--json", "out.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("break_it", BROKEN, ids=lambda function: function.__name__)
def test_a_broken_file_is_one_sentence_and_leaves_nothing(break_it, verb, capsys, monkeypatch, tmp_path, world_root):
    if verb == "build rtx":
        pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'udx[rtx]'")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = folder / "student.onnx"
    break_it(voxelizing_detector(), path)
    monkeypatch.setattr(sys, "argv", ["udx", *map(str, VERBS[verb](path, world_root))])
    with pytest.raises(SystemExit) as end:
        cli.run()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith("udx: ") and error.count("\n") == 1
    assert "student.onnx" in error and BROKEN[break_it] in error
    assert [item.name for item in folder.iterdir()] == ["student.onnx"]
