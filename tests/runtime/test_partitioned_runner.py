"""Partitioned execution is the whole graph's: segments, NumPy kernels and one arena give the very same bits.

Measured on tiny and nano detectors of all three modalities, in FP32 and FP16 and quantised, and on moved calibrations:
no output differs in a bit. A detector's own convolutions stay where they were, so that ONNX Runtime computes them in
the same way; the kernels add in the order in which it adds.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.build.detectors import write_detector
from tests.build.exported import MODALITIES, exported_model, frame_of, write_fp16, write_sealed
from tests.build.plans import build_plan, rewrite
from tests.build.quantised import write_quantised
from udx.data.spec import Modality
from udx.errors import UdxError
from udx.runtime import open_engine
from udx.runtime.arena import PlacedTensor
from udx.runtime.partitioned import read_partitioned
from udx.runtime.partitioned_runner import UNWRITTEN, PartitionedRunner, arena_of

KINDS = ("tiny", "nano", "tiny-fp16", "tiny-int8")


@pytest.fixture(scope="module", params=[(kind, modality) for kind in KINDS for modality in MODALITIES])
def pair(request, tmp_path_factory) -> tuple[Path, Path]:
    """A detector's ONNX file, and the plan of it."""
    kind, modality = request.param
    folder = tmp_path_factory.mktemp(f"{kind}-{modality}")
    file = write_kind(kind, modality, folder / "student.onnx")
    return file, build_plan(file, folder / "student.plan").path


def write_kind(kind: str, modality: Modality, path: Path) -> Path:
    recipe, _, precision = kind.partition("-")
    model, manifest = exported_model(recipe, modality)
    if precision == "fp16":
        return write_fp16(path, model, manifest)
    if precision == "int8":
        return write_quantised(path, model, manifest, [frame_of(manifest, seed) for seed in range(2)])
    return write_sealed(path, model, manifest)


@pytest.mark.parametrize("turn_rad", [0.0, 0.3], ids=["own-rig", "moved-rig"])
def test_partitioned_execution_has_the_whole_graph_s_bits(pair, turn_rad):
    file, plan = pair
    with open_engine(file, threads=1) as whole, open_engine(plan, threads=1) as parts:
        assert isinstance(parts, PartitionedRunner)
        assert (parts.inputs, parts.outputs) == (whole.inputs, whole.outputs)
        frame = frame_of(whole.manifest, seed=1, turn_rad=turn_rad)
        expected, found = whole.infer(frame), parts.infer(frame)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor, err_msg=name)
        # A result that is the same for every frame would prove little.
        other = whole.infer(frame_of(whole.manifest, seed=2))
        assert not np.array_equal(other["scores"], expected["scores"])
        assert np.ptp(expected["scores"]) > 0.01


def test_frames_leave_nothing_behind(pair):
    """Memory is used again and again: the same frame gives the same boxes whatever ran before it."""
    with open_engine(pair[1], threads=1) as parts:
        first = parts.infer(frame_of(parts.manifest, seed=3))
        for seed in (4, 5):
            parts.infer(frame_of(parts.manifest, seed=seed, turn_rad=seed))
        again = parts.infer(frame_of(parts.manifest, seed=3))
    for name in first:
        np.testing.assert_array_equal(again[name], first[name])


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    return build_plan(write_detector(folder / "student.onnx"), folder / "student.plan").path


def test_results_are_the_caller_s_own(plan):
    with open_engine(plan) as runner:
        first = runner.infer(frame_of(runner.manifest, seed=0))
        kept = {name: tensor.copy() for name, tensor in first.items()}
        runner.infer(frame_of(runner.manifest, seed=1))
    for name in kept:
        np.testing.assert_array_equal(first[name], kept[name])


def test_the_arena_is_aligned_and_full_of_nonsense(plan):
    held = read_partitioned(plan).plan
    memory = arena_of(held)
    for tensor in held.tensors:
        view = memory[tensor.name]
        assert view.ctypes.data % 256 == 0
        assert (view.shape, view.dtype.name, view.nbytes) == (tensor.shape, tensor.dtype, tensor.num_bytes)
        assert set(view.tobytes()) == {UNWRITTEN}
    memory["cleared"][...] = 7
    assert (memory["sums"] == 7).all()
    assert memory["sums"].ctypes.data == memory["cleared"].ctypes.data


def test_settings_tell_how_it_runs(plan):
    settings = open_engine(plan, threads=2).settings
    assert settings["backend"] == "onnxruntime"
    assert settings["segments"] == 1
    assert settings["kernels"] == f"2 in NumPy {np.__version__}"
    assert settings["threads"] == 2
    assert settings["arena_bytes"] == read_partitioned(plan).plan.arena_bytes


def test_what_a_plan_does_not_run_on_is_said(plan):
    with pytest.raises(UdxError, match="is a partitioned plan, which runs on what it was built for"):
        open_engine(plan, "onnxruntime-cuda")
    with pytest.raises(UdxError, match="at least one thread"):
        open_engine(plan, threads=0)


def test_a_plan_that_is_replaced_while_it_is_open_is_noticed(plan, tmp_path):
    mine = tmp_path / "mine.plan"
    mine.write_bytes(plan.read_bytes())
    runner = open_engine(mine)
    mine.write_bytes(rewrite(plan, lambda index: index.update(udx_version="other")).read_bytes())
    with pytest.raises(UdxError, match=r"mine\.plan has been replaced since it was opened"):
        runner.activate()


def test_segments_are_checked_like_any_onnx_file(plan):
    name = "segments/segment-0.onnx"
    model = onnx.load_from_string(read_partitioned(plan).members[name])

    def refused(content: bytes, said: str) -> None:
        with pytest.raises(UdxError, match=said):
            open_engine(rewrite(plan, lambda index: None, {name: content}))

    refused(b"", r"segments/segment-0\.onnx of .* is damaged or not an ONNX file")
    refused(model.SerializeToString()[:-40], "is damaged|no valid|not a valid")
    outside = onnx.ModelProto()
    outside.CopyFrom(model)
    tensor = outside.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    refused(outside.SerializeToString(), "wants weights from another file, which no segment does; do not trust it")
    fewer = onnx.ModelProto()
    fewer.CopyFrom(model)
    del fewer.graph.output[0]
    refused(fewer.SerializeToString(), "has other inputs or outputs than its plan says; build the plan again")
    huge = onnx.ModelProto()
    huge.CopyFrom(model)
    huge.graph.initializer.add(name="huge", data_type=1, dims=[2**35])
    refused(huge.SerializeToString(), "GiB; do not trust it")
    grown = onnx.ModelProto()
    grown.CopyFrom(model)
    grown.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2**36]), "length"))
    grown.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["length"], ["zeros"]))
    refused(grown.SerializeToString(), r"declares zeros float32\[68719476736\], 256 GiB; do not trust it")
    calling = onnx.ModelProto()
    calling.CopyFrom(model)
    calling.functions.add(name="more", domain="udx")
    refused(calling.SerializeToString(), "holds functions, which no segment does; do not trust it")


def test_more_memory_than_there_is_is_one_sentence(plan, monkeypatch):
    held = read_partitioned(plan).plan

    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr(np, "full", none_left)
    with pytest.raises(UdxError, match="GiB for its tensors, more than is free"):
        arena_of(held)


def test_a_placed_tensor_knows_its_bytes():
    assert PlacedTensor(name="x", dtype="int64", shape=(3, 2), offset=512).end == 560
