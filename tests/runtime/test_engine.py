"""Which files and backends open, and what is said of the others."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.plan_records import MANIFEST, STRUCTURE, write_plan
from udx.errors import UdxError
from udx.runtime import open_engine
from udx.runtime.identity import identify


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"PK\x03\x04", "is damaged or no zip file"),
        (b"ftrt", r"has no record student\.plan\.json beside it"),
        (b"vtrt", r"has no record student\.plan\.json beside it"),
        (b"ptrt", r"has no record student\.plan\.json beside it"),
        (b"\x00\x00\x00\x00", "is damaged or not an ONNX file"),
    ],
)
def test_other_kinds_of_engine_are_told_apart(tmp_path: Path, head: bytes, said: str) -> None:
    path = tmp_path / "student.plan"
    path.write_bytes(head + bytes(100))
    with pytest.raises(UdxError, match=said):
        open_engine(path)


@pytest.mark.parametrize("head", [b"ftrt", b"some"])
def test_a_plan_of_tensorrt_is_identified_by_its_record(tmp_path: Path, head: bytes) -> None:
    path = write_plan(tmp_path / "student.plan", head + bytes(100))
    assert open_engine(path).manifest == MANIFEST
    with pytest.raises(UdxError, match=r"is a TensorRT plan, which runs on what it was built for \(tensorrt\)"):
        open_engine(path, "onnxruntime")
    found = identify(path)
    assert (found.structure, found.manifest, found.bytes) == (STRUCTURE, MANIFEST, 104)
    path.write_bytes(head + bytes(101))
    for opener in (open_engine, identify):
        with pytest.raises(UdxError, match=r"is not the plan that student\.plan\.json describes"):
            opener(path)


def test_an_unknown_backend_lists_those_there_are(make_engine) -> None:
    with pytest.raises(UdxError, match="choose one of auto, onnxruntime, onnxruntime-cuda"):
        open_engine(make_engine(), "cuda")


def test_cuda_never_falls_back_to_the_cpu_in_silence(make_engine) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UdxError, match="onnxruntime-gpu"):
        open_engine(make_engine(), "onnxruntime-cuda").activate()


def test_a_path_may_be_text(make_engine) -> None:
    path = make_engine()
    with open_engine(str(path)) as runner:
        assert runner.path == path


def test_a_runner_needs_a_thread(make_engine) -> None:
    with pytest.raises(UdxError, match="at least one thread"):
        open_engine(make_engine(), threads=0)


def test_no_module_of_the_runtime_imports_torch_or_anything_heavy() -> None:
    code = (
        "import importlib, pkgutil, sys, udx.runtime\n"
        "found = [module.name for module in pkgutil.walk_packages(udx.runtime.__path__, 'udx.runtime.')]\n"
        "assert {'udx.runtime.bench', 'udx.runtime.torch_runner', 'udx.runtime.device.frame'} <= set(found)\n"
        "for name in found: importlib.import_module(name)\n"
        "heavy = {'torch', 'nuscenes', 'onnxruntime', 'onnx', 'matplotlib', 'transformers', 'pycuda', 'cuda',"
        " 'tensorrt', 'tensorrt_rtx_bindings', 'triton'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_measuring_and_predicting_import_no_torch(make_engine) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom udx.runtime.bench import bench\n"
        "from udx.runtime.measure import Protocol\n"
        "report = bench(Path(sys.argv[1]), protocol=Protocol(warmup=1, blocks=2, frames=2))\n"
        "report.to_json()\n"
        "assert 'torch' not in sys.modules and 'nuscenes' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(make_engine())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
