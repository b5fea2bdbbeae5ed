"""Machines of every kind, and what is said of each: every no has its cause and its cure."""

from dataclasses import asdict

import pytest

from udx.doctor.ask import Probed
from udx.doctor.diagnosis import YES, Answer, all_of, in_turn, no
from udx.doctor.machine import Machine
from udx.doctor.show import cures, machine_lines
from udx.doctor.verdicts import diagnose
from udx.errors import UdxError
from udx.runtime.cuda_driver import CudaDevice

ABSENT = Probed(failure="it is not installed", installed=False)


def machine(**changes) -> Machine:
    given = {
        "os": "Linux", "python": "3.11.7", "cpu": "Some CPU", "cores": 8, "memory_gib": 32.0,
        "versions": {"udx": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.32.0"}, "torch_cuda": "13.0",
    }  # fmt: skip
    return Machine(**(given | changes))


def driver(capability=(8, 9), cuda=(13, 0), name="Some GPU") -> Probed:
    gpu = CudaDevice(name=name, compute_capability=capability, multiprocessors=58, memory_bytes=16 << 30, uuid="GPU-0")
    return Probed({"version": "580.65", "cuda": list(cuda), "gpus": [asdict(gpu)]})


def everything(**changes) -> dict[str, Probed]:
    """A machine where all works."""
    engine = {"builder": None, "runtime": None}
    works = {
        "driver": driver(),
        "onnxruntime": Probed(
            {
                "version": "1.32.0",
                "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
                "starts": {"CUDAExecutionProvider": None, "CPUExecutionProvider": None},
            }
        ),
        "tensorrt": Probed({"version": "11.1.0.106", "compiled_plugins": True, **engine}),
        "tensorrt_rtx": Probed({"version": "1.7.1.116", "capabilities": [75, 80, 86, 89, 120, 121], **engine}),
        "triton": Probed({"version": "3.9.0", "interprets": False, "assembler": None}),
        "pycuda": Probed({"version": "2026.1", "starts": None}),
        "cuda_bindings": Probed({"version": "13.0.1", "starts": None}),
    }
    return works | changes


NO_DRIVER = Probed({"failure": "no NVIDIA driver is installed"})
CPU_ONNXRUNTIME = Probed(
    {"version": "1.32.0", "providers": ["CPUExecutionProvider"], "starts": {"CPUExecutionProvider": None}}
)


def answers(diagnosis) -> dict[str, Answer]:
    found = {library.name: library.works for library in diagnosis.libraries}
    for backend in diagnosis.backends:
        found |= {f"{backend.name} build": backend.build, f"{backend.name} run": backend.run}
    return found


def verdicts(diagnosis) -> dict[str, str]:
    return {name: answer.verdict for name, answer in answers(diagnosis).items()}


def test_where_everything_works_there_is_nothing_to_mend():
    diagnosis = diagnose(machine(), everything())
    assert set(verdicts(diagnosis).values()) == {"yes"}
    assert list(cures(diagnosis)) == []
    lines = list(machine_lines(diagnosis))
    assert lines[2:] == [
        "NVIDIA driver 580.65, for CUDA up to 13.0",
        "Some GPU, compute capability 8.9, 16 GiB",
        "ONNX Runtime has CUDA, CPU",
        "TensorRT-RTX supports compute capability 7.5, 8.0, 8.6, 8.9, 12.0, 12.1; it is made for 16-bit types "
        "(udx export --precision fp16) and for INT8",
    ]
    for name in ("onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"):
        diagnosis.require(name)


def test_a_machine_without_a_gpu_builds_for_tensorrt_rtx_and_runs_onnxruntime():
    found = everything(driver=NO_DRIVER, onnxruntime=CPU_ONNXRUNTIME)
    diagnosis = diagnose(machine(torch_cuda=None), found)
    assert verdicts(diagnosis) == {
        "triton": "yes", "torch": "yes", "pycuda": "no", "cuda-bindings": "no",
        "onnxruntime build": "yes", "onnxruntime run": "yes",
        "onnxruntime-cuda build": "yes", "onnxruntime-cuda run": "no",
        "tensorrt build": "no", "tensorrt run": "no",
        "tensorrt-rtx build": "yes", "tensorrt-rtx run": "no",
    }  # fmt: skip
    assert answers(diagnosis)["tensorrt build"].why == "no NVIDIA driver is installed"
    assert "sudo ubuntu-drivers install" in answers(diagnosis)["tensorrt build"].mend[0]
    assert not any(line.startswith("NVIDIA driver") for line in machine_lines(diagnosis))
    with pytest.raises(UdxError, match="tensorrt-rtx does not run here: no NVIDIA driver is installed; sudo"):
        diagnosis.require("tensorrt-rtx")


def test_plans_build_without_what_runs_them():
    diagnosis = diagnose(machine(), everything(cuda_bindings=Probed(failure="it crashes")))
    said = answers(diagnosis)
    for name in ("tensorrt", "tensorrt-rtx"):
        assert said[f"{name} build"].verdict == "yes"
        assert said[f"{name} run"].mend == ("pip install --force-reinstall 'cuda-bindings==13.*'",)


def test_plans_run_through_cuda_bindings_or_pycuda():
    for installed in ("cuda_bindings", "pycuda"):
        absent = {"cuda_bindings": ABSENT, "pycuda": ABSENT} | {installed: everything()[installed]}
        said = answers(diagnose(machine(), everything(**absent)))
        assert said["tensorrt run"] == said["tensorrt-rtx run"] == YES
        assert ("pycuda" in said) == (installed == "pycuda")
    said = answers(diagnose(machine(), everything(cuda_bindings=ABSENT, pycuda=ABSENT)))
    assert said["tensorrt run"] == no("cuda-bindings is not installed", "pip install 'cuda-bindings==13.*'")
    broken = Probed({"version": "2026.1", "starts": "cuInit failed"})
    said = answers(diagnose(machine(), everything(cuda_bindings=ABSENT, pycuda=broken)))
    assert said["tensorrt run"].why == "pycuda does not start: cuInit failed"


def test_a_base_install_says_what_to_install():
    found = dict.fromkeys(everything(), ABSENT) | {"driver": NO_DRIVER}
    diagnosis = diagnose(machine(versions={"udx": "0.1.0"}, torch_cuda=None), found)
    said = answers(diagnosis)
    assert {name for name, answer in said.items() if answer.verdict == "yes"} == {
        "onnxruntime build",
        "onnxruntime-cuda build",
    }
    assert said["onnxruntime run"].mend == ("pip install 'udx[cpu]'",)
    assert said["tensorrt build"].why == (
        "it is not installed, and no NVIDIA driver is installed, and Triton, which compiles the kernels, is not "
        "installed, and torch is not installed"
    )
    assert said["tensorrt build"].mend[0] == "pip install 'udx[tensorrt]'"
    assert said["tensorrt-rtx build"].mend[0] == "pip install 'udx[rtx]'"
    assert said["torch"].mend == ("pip install 'udx[train]'",)
    assert said["tensorrt-rtx run"].why == (
        "it is not installed, and no NVIDIA driver is installed, and cuda-bindings is not installed"
    )
    text = "\n".join(cures(diagnosis))
    assert "cannot use cuda-bindings (running plans): cuda-bindings is not installed" in text
    assert "pycuda" not in text


def test_an_older_driver_gets_the_packages_for_its_cuda():
    found = everything(driver=driver(cuda=(12, 4)), tensorrt=ABSENT, cuda_bindings=ABSENT, pycuda=ABSENT)
    said = answers(diagnose(machine(), found))
    assert said["tensorrt run"].mend == ("pip install 'tensorrt-cu12>=10.15'", "pip install 'cuda-bindings==12.*'")
    assert said["cuda-bindings"].mend == ("pip install 'cuda-bindings==12.*'",)


@pytest.mark.parametrize("changes", [{"version": "10.9.0.34"}, {"compiled_plugins": False}])
def test_a_tensorrt_without_compiled_plugins_is_too_old(changes):
    tensorrt = Probed(everything()["tensorrt"].facts | changes)
    said = answers(diagnose(machine(), everything(tensorrt=tensorrt)))
    assert "embeds no compiled plugins" in said["tensorrt build"].why
    assert said["tensorrt run"].verdict == "no"


def test_a_tensorrt_that_does_not_start_builds_nothing():
    tensorrt = Probed(everything()["tensorrt"].facts | {"builder": "CUDA initialization failure with error: 35"})
    said = answers(diagnose(machine(), everything(tensorrt=tensorrt)))
    assert said["tensorrt build"].why == "it does not start: CUDA initialization failure with error: 35"
    assert said["tensorrt run"] == YES


def test_the_library_is_asked_whether_it_supports_the_gpu():
    diagnosis = diagnose(machine(), everything(driver=driver((9, 0), name="NVIDIA H200")))
    said = answers(diagnosis)
    assert said["tensorrt-rtx build"] == YES
    assert said["tensorrt-rtx run"] == no(
        "it does not support compute capability 9.0, only 7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
        "use --backend tensorrt or --backend onnxruntime-cuda on this GPU",
    )
    assert said["tensorrt build"] == said["tensorrt run"] == YES
    assert next(cures(diagnosis)).startswith("cannot run tensorrt-rtx: it does not support compute capability 9.0")
    newer = Probed(everything()["tensorrt_rtx"].facts | {"capabilities": [89, 90]})
    assert set(verdicts(diagnose(machine(), everything(driver=driver((9, 0)), tensorrt_rtx=newer))).values()) == {"yes"}


def test_a_library_that_cannot_be_asked_says_why():
    silent = Probed(everything()["tensorrt_rtx"].facts | {"builder": "no memory", "capabilities": None})
    said = answers(diagnose(machine(), everything(tensorrt_rtx=silent)))
    assert said["tensorrt-rtx run"].why == "it does not start: no memory"


def test_a_gpu_before_ampere_runs_no_plans():
    said = answers(diagnose(machine(), everything(driver=driver((7, 5)))))
    assert said["tensorrt run"].why == "the kernels in plans need compute capability 8.0, and this GPU has 7.5"
    assert said["tensorrt-rtx run"].verdict == "no"
    assert said["onnxruntime-cuda run"] == YES


def test_two_onnxruntimes_are_told_apart():
    both = machine(versions={"udx": "0.1.0", "torch": "2", "onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"})
    said = answers(diagnose(both, everything(onnxruntime=CPU_ONNXRUNTIME)))
    assert said["onnxruntime-cuda run"].why == "onnxruntime hides onnxruntime-gpu, which is installed beside it"
    said = answers(diagnose(machine(), everything(onnxruntime=CPU_ONNXRUNTIME)))
    assert said["onnxruntime-cuda run"].why == "this ONNX Runtime is one for the CPU"


def test_a_provider_without_its_libraries_is_told():
    facts = everything()["onnxruntime"].facts
    broken = Probed(
        facts | {"starts": facts["starts"] | {"CUDAExecutionProvider": "its CUDA libraries cannot be loaded"}}
    )
    said = answers(diagnose(machine(), everything(onnxruntime=broken)))
    assert said["onnxruntime-cuda run"].mend == ("pip install 'onnxruntime-gpu[cuda,cudnn]'",)
    assert said["onnxruntime run"] == YES


@pytest.mark.parametrize("name", ["onnxruntime", "tensorrt", "tensorrt_rtx", "triton", "pycuda", "cuda_bindings"])
def test_a_library_that_crashes_is_a_no_and_no_more(name):
    crashed = Probed(failure="it crashes (SIGSEGV) when it is loaded")
    diagnosis = diagnose(machine(), everything(**{name: crashed}))
    assert any(answer.why and "SIGSEGV" in answer.why for answer in answers(diagnosis).values())
    assert all(answer.verdict == "yes" or answer.mend for answer in answers(diagnosis).values())
    assert diagnosis.to_json()["schema"] == "udx-doctor/1"


def test_an_interpreter_compiles_no_kernels():
    triton = Probed({"version": "3.9.0", "interprets": True, "assembler": None})
    said = answers(diagnose(machine(), everything(triton=triton)))
    assert said["tensorrt build"].mend == ("unset TRITON_INTERPRET",)
    assert said["tensorrt run"] == YES


def test_a_hidden_gpu_is_no_missing_driver():
    hidden = Probed({"version": "580.65", "cuda": [13, 0], "gpus": []})
    said = answers(diagnose(machine(), everything(driver=hidden)))
    assert said["tensorrt run"].why == "the NVIDIA driver shows no GPU"
    assert "CUDA_VISIBLE_DEVICES" in said["tensorrt run"].mend[0]


def test_reasons_are_joined_or_taken_in_turn():
    one, other = no("a is missing", "get a"), no("b is missing", "get b", "get a")
    assert all_of(YES, one, other) == no("a is missing, and b is missing", "get a", "get b")
    assert in_turn(YES, one, other) == one
    assert all_of(YES) == in_turn(YES) == YES
    with pytest.raises(AssertionError):
        Answer(verdict="no", why="it is broken")
