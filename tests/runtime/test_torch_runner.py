"""The yardstick in torch; what it computes is in the contract of all runners."""

import numpy as np
import pytest
import torch

from tests.build.exported import config_of, frame_of, random_detector, rig_for
from tests.tiny import tiny_run
from udx.errors import UdxError
from udx.export.onnx_export import detections_of
from udx.runtime import open_engine
from udx.train.checkpoint import CheckpointRecord, save_checkpoint
from udx.train.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a camera detector with random weights, and the detector."""
    folder = tmp_path_factory.mktemp("runs") / "cam"
    config = tiny_run("cam")
    detector = random_detector(config.detector)
    rig = rig_for(config_of("tiny", "cam"))
    assert rig is not None
    record = CheckpointRecord(config=config, step=3, data={"keyframes": "none"}, git_commit="abc", rig=rig.to_json())
    save_checkpoint(Run(folder).checkpoint, detector, record)
    return folder, detector


def test_a_run_is_what_it_was_trained_to_be(run):
    folder, detector = run
    with open_engine(folder) as runner:
        frame = frame_of(runner.manifest)
        found, expected = runner.detect(frame), detections_of(detector, frame)
    np.testing.assert_array_equal(found.boxes_K9, expected.boxes_K9)
    np.testing.assert_array_equal(found.scores_K, expected.scores_K)
    assert runner.manifest.recipe == "nano"
    assert (runner.manifest.git_commit, runner.manifest.max_boxes) == ("abc", 30)


def test_threads_are_the_process_s_only_while_it_is_active(run):
    before = torch.get_num_threads()
    with open_engine(run[0], threads=before + 1) as runner:
        assert torch.get_num_threads() == before + 1
        assert runner.settings["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_a_compiled_run_is_compiled_once(run, monkeypatch):
    compiled = []

    def compile_(module):
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", compile_)
    with open_engine(run[0], "torch-compile") as runner:
        for _ in range(2):
            runner.infer(frame_of(runner.manifest))
        assert runner.settings["compiled"] == "yes"
    assert len(compiled) == 1
    assert open_engine(run[0], "torch").settings["compiled"] == "no"


def test_failures_are_one_sentence_and_release_the_detector(run, monkeypatch):
    def fails(self, *tensors):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nGPU 0 has …")

    monkeypatch.setattr("udx.export.deploy.DeployableDetector.forward", fails)
    said = r"torch failed on .* \(CUDA out of memory\. Tried .*GiB\.\); free memory"
    runner = open_engine(run[0])
    with pytest.raises(UdxError, match=said), runner:
        runner.infer(frame_of(runner.manifest))
    with pytest.raises(AssertionError, match="activate"):
        runner.infer(frame_of(runner.manifest))


def test_what_is_no_run_or_cannot_run_here(run, tmp_path, monkeypatch):
    with pytest.raises(UdxError, match=r"there is no checkpoint .*; train the run first"):
        open_engine(tmp_path)
    with pytest.raises(UdxError, match="is a run, which onnxruntime does not run; choose one of torch, torch-cuda"):
        open_engine(run[0], "onnxruntime")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    with pytest.raises(UdxError, match="this torch sees no CUDA device"):
        open_engine(run[0], "torch-cuda", threads=threads + 1).activate()
    assert torch.get_num_threads() == threads
