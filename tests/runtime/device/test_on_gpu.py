"""On a GPU: what the stand-in cannot know. The contract of all runners is in ``tests/runtime/test_runner.py``."""

import subprocess
import sys

import numpy as np
import pytest

from tests.build.exported import frame_of
from tests.runtime.kinds import KINDS, require_runnable
from udx.data.inputs import CALIBRATION
from udx.errors import UdxError

PLANS = [pytest.param(kind, marks=pytest.mark.gpu(ask="doctor")) for kind in ("tensorrt", "tensorrt-rtx")]


@pytest.fixture(scope="module", params=PLANS)
def runner(request, tmp_path_factory):
    require_runnable(request.param)
    return KINDS[request.param](tmp_path_factory.mktemp(request.param), "fusion")


def free_bytes() -> int:
    import torch

    return torch.cuda.mem_get_info()[0]


def test_a_frame_is_a_graph_and_takes_no_memory(runner):
    frame = frame_of(runner.manifest)
    runner.set_rig(runner.manifest.rig)
    sensors = {name: tensor for name, tensor in frame.items() if name not in CALIBRATION}
    with runner:
        assert runner.settings["cuda_graph"] == "yes"
        expected = runner.infer(sensors)
        before = free_bytes()
        for _ in range(50):
            found = runner.infer(sensors)
        assert free_bytes() == before
        np.testing.assert_array_equal(found["scores"], expected["scores"])
        times = runner.stages_ms()
    assert list(times) == ["upload", "network", "download"]
    assert 0 < times["network"] < 1000


def test_memory_comes_back(runner):
    with runner:
        runner.infer(frame_of(runner.manifest))
    before = free_bytes()
    for _ in range(3):
        with runner:
            assert free_bytes() < before
            runner.infer(frame_of(runner.manifest))
    assert before - free_bytes() < 32 << 20, "what the driver keeps for itself"


def test_a_gpu_that_is_full(runner):
    import torch

    hog = []
    try:
        for size in (1 << 30, 1 << 26, 1 << 22, 1 << 20):
            while True:
                try:
                    hog.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
                except torch.OutOfMemoryError:
                    break
        with pytest.raises(UdxError, match=r"out of memory|OutOfMemory"):
            runner.activate()
    finally:
        hog.clear()
        torch.cuda.empty_cache()
    with runner:
        runner.infer(frame_of(runner.manifest))


def test_two_processes_share_the_gpu(runner):
    code = (
        "import sys\nfrom pathlib import Path\nfrom udx.runtime import open_engine\n"
        "from udx.runtime.frames import generated_frame\n"
        "with open_engine(Path(sys.argv[1])) as runner:\n"
        "    frame = generated_frame(runner.manifest, 0)[0]()\n"
        "    for _ in range(20): runner.infer(frame)\n"
        "    print(runner.infer(frame)['scores'].sum())"
    )
    command = [sys.executable, "-c", code, str(runner.path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
