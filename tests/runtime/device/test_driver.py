"""The driver's implementations: one contract for all, on a fake driver library; and which of them is chosen."""

import sys
from pathlib import Path

import pytest

from tests.build.detectors import write_detector
from tests.build.plans import build_plan
from tests.runtime.device.fake_cuda import run_on_fake
from udx.doctor.ask import is_installed
from udx.errors import UdxError
from udx.runtime.device import driver as module
from udx.runtime.device.driver import open_driver

CONTRACT = Path(__file__).with_name("driver_contract.py")


KINDS = ("bindings", "pycuda", "pycuda-stand-in")


def require_installed(kind: str) -> None:
    needed = {"bindings": "cuda.bindings", "pycuda": "pycuda"}.get(kind)
    if needed is not None and not is_installed(needed):
        pytest.skip(f"{needed} is not installed")


@pytest.mark.parametrize("kind", KINDS)
def test_every_implementation_keeps_the_contract(kind):
    require_installed(kind)
    done = run_on_fake("-m", "pytest", "-p", "no:cacheprovider", "-rfE", str(CONTRACT), UDX_DRIVER=kind)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout or "[100%]" in done.stdout


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of TensorRT-RTX, built by the library itself."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'udx[rtx]'")
    pytest.importorskip("triton", reason="compiles the kernels of plans")
    folder = tmp_path_factory.mktemp("plan")
    detector = write_detector(folder / "student.onnx")
    return build_plan(detector, folder / "student.plan", "tensorrt-rtx", arches=(89,)).path


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_plan_runs_on_the_fake_driver_and_leaves_nothing(plan, kind):
    require_installed(kind)
    program = str(Path(__file__).with_name("plan_on_fake.py"))
    options = ("-m", "pytest", "-p", "no:cacheprovider", "-rfE")
    done = run_on_fake(*options, program, UDX_DRIVER=kind, UDX_PLAN=str(plan))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "1 passed" in done.stdout


@pytest.mark.parametrize(
    ("missing", "chosen"), [((), "cuda-bindings"), (("cuda", "cuda.bindings"), "pycuda")], ids=["both", "pycuda alone"]
)
def test_cuda_bindings_come_first_and_pycuda_where_they_are_not(missing, chosen):
    pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")
    code = (
        "import sys\n"
        "from tests.runtime.device import pycuda_stand_in\n"
        "from udx.runtime.device.driver import open_driver\n"
        "pycuda_stand_in.install()\n"
        f"sys.modules |= dict.fromkeys({missing!r})\n"
        "print(open_driver().name)\n"
    )
    done = run_on_fake("-c", code)
    assert (done.stdout, done.stderr) == (f"{chosen}\n", "")


def test_without_both_one_sentence_says_what_to_install(monkeypatch):
    for name in ("cuda", "cuda.bindings", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UdxError, match=r"needs cuda-bindings or pycuda \(.*\); pip install 'udx\[gpu\]'"):
        open_driver()


def test_a_driver_that_is_not_there_is_one_sentence(monkeypatch):
    pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")

    class Absent(Exception):
        """What cuda-bindings raises has another name in each version."""

    def fail(flags: int) -> None:
        raise Absent("libcuda.so.1: cannot open shared object file\nmore")

    monkeypatch.setattr("cuda.bindings.driver.cuInit", fail)
    with pytest.raises(
        UdxError, match=r"^the NVIDIA driver does not start: libcuda\.so\.1: cannot .*; see udx doctor$"
    ):
        open_driver()
    assert module.INSTALL == "pip install 'udx[gpu]'"
