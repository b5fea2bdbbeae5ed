"""What the probes find where their libraries are installed, and what they say of those that do not start."""

import json
import sys
from types import ModuleType

import pytest

from udx.doctor import probes
from udx.errors import UdxError
from udx.runtime import cuda_driver as driver_module
from udx.runtime.cuda_driver import CudaDevice, CudaDriver

GPU = CudaDevice(name="Some GPU", compute_capability=(8, 9), multiprocessors=58, memory_bytes=16 << 30, uuid="GPU-0")


def test_onnxruntime_runs_a_model():
    pytest.importorskip("onnxruntime")
    found = probes.onnxruntime()
    assert found["starts"]["CPUExecutionProvider"] is None
    assert "CPUExecutionProvider" in found["providers"]


def test_triton_has_its_assembler():
    pytest.importorskip("triton")
    found = probes.triton()
    assert found["assembler"] is None
    assert found["version"][0].isdigit()


def test_tensorrt_rtx_starts_without_a_gpu():
    pytest.importorskip("tensorrt_rtx_bindings")
    found = probes.tensorrt_rtx()
    assert found["builder"] is None
    assert {86, 89, 120} <= set(found["capabilities"])
    assert 70 not in found["capabilities"]


def test_the_driver_and_its_gpus(monkeypatch):
    monkeypatch.setattr(driver_module, "cuda_driver", lambda: CudaDriver(cuda_version=(13, 0), devices=(GPU,)))
    found = json.loads(json.dumps(probes.driver()))
    assert found["cuda"] == [13, 0]
    assert found["gpus"][0]["compute_capability"] == [8, 9]


def test_a_missing_driver_is_a_fact(monkeypatch):
    def absent():
        raise UdxError("no NVIDIA driver is installed; install one")

    monkeypatch.setattr(driver_module, "cuda_driver", absent)
    assert probes.driver() == {"failure": "no NVIDIA driver is installed"}


def test_a_builder_that_does_not_start_says_why(monkeypatch):
    from tests.build import tensorrt_stand_in as stand_in

    machine = stand_in.Machine(starts=False)
    stand_in.install(monkeypatch, machine)
    found = probes.tensorrt()
    assert found["builder"] == "CUDA initialization failure with error: 35"
    assert found["runtime"] is None
    assert found["compiled_plugins"] is True
    assert found["version"] == machine.version


def test_libraries_of_the_driver(monkeypatch):
    pycuda, driver = ModuleType("pycuda"), ModuleType("pycuda.driver")

    def init():
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected\nmore")

    driver.init, pycuda.driver, pycuda.VERSION = init, driver, (2026, 1)
    monkeypatch.setitem(sys.modules, "pycuda", pycuda)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    assert probes.pycuda() == {
        "version": "2026.1",
        "starts": "cuInit failed: no CUDA-capable device is detected",
    }


def test_an_answer_is_one_marked_line(monkeypatch, capsys):
    monkeypatch.setitem(probes.PROBES, "triton", lambda: {"version": "3.9"})
    probes.main("triton")
    assert capsys.readouterr().out == probes.MARK + '{"version": "3.9"}\n'
