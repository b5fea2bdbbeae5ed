"""From what the probes found to a diagnosis: what is missing for what, and what mends it."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from udx.doctor.ask import Probed
from udx.doctor.diagnosis import YES, Answer, Backend, Diagnosis, Library, all_of, in_turn, no
from udx.doctor.machine import Machine
from udx.runtime.rtx import OTHER_BACKENDS, listed

INSTALL_DRIVER: Final = (
    "sudo ubuntu-drivers install (Debian: sudo apt install nvidia-driver; in a container: docker run --gpus all)"
)
REINSTALL_RTX: Final = "pip install --force-reinstall tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
SHOW_GPU: Final = "unset CUDA_VISIBLE_DEVICES, or go to a machine with an NVIDIA GPU"
OLDEST_TENSORRT: Final = (10, 15)
OLDEST_GPU: Final = (8, 0)
"""What the PTX in plans is compiled for."""


def diagnose(machine: Machine, probed: Mapping[str, Probed]) -> Diagnosis:
    """Draw the conclusions from what was found."""
    driver = probed["driver"]
    found = driver.facts
    gpu, triton, torch = _gpu(driver), _triton(probed["triton"]), _torch(machine)
    kernels = all_of(triton, torch)  # the kernels stand beside their torch operators
    install = f"pip install 'cuda-bindings=={_cuda_major(driver)}.*'"
    callers = [_driver_library("cuda-bindings", "running plans", probed["cuda_bindings"], gpu, install)]
    if probed["pycuda"].installed:  # else there is nothing to say of it: cuda-bindings does more
        reinstall = "pip install --force-reinstall pycuda"
        needed_for = "running plans where cuda-bindings is not installed, without CUDA graphs"
        callers.append(_driver_library("pycuda", needed_for, probed["pycuda"], gpu, reinstall))
    launcher = all_of(_recent(driver, gpu), _any_of(probed["cuda_bindings"].installed, callers))
    return Diagnosis(
        machine=machine,
        driver=found.get("version"),
        cuda=".".join(map(str, found["cuda"])) if found.get("cuda") else None,
        gpus=tuple(found.get("gpus", ())),
        gpu=gpu,
        backends=(
            _onnxruntime(probed["onnxruntime"]),
            _onnxruntime_cuda(probed["onnxruntime"], machine, gpu),
            _tensorrt(probed["tensorrt"], driver, gpu, kernels, launcher),
            _tensorrt_rtx(probed["tensorrt_rtx"], driver, gpu, kernels, launcher),
        ),
        rtx_capabilities=tuple(probed["tensorrt_rtx"].facts.get("capabilities") or ()),
        providers=tuple(probed["onnxruntime"].facts.get("providers", ())),
        libraries=(
            _library("triton", "the kernels of plans, and training on a GPU", probed["triton"], triton),
            Library(
                name="torch",
                version=machine.versions.get("torch"),
                needed_for="training, export, and the kernels of plans",
                works=torch,
            ),
            *callers,
        ),
    )


# -- the GPU -----------------------------------------------------------------------------------------------------------


def _gpu(driver: Probed) -> Answer:
    failure = driver.failure or driver.facts.get("failure")
    if failure:
        return no(failure, INSTALL_DRIVER)
    return YES if driver.facts["gpus"] else no("the NVIDIA driver shows no GPU", SHOW_GPU)


def _capability(driver: Probed) -> tuple[int, int]:
    major, minor = driver.facts["gpus"][0]["compute_capability"]
    return major, minor


def _recent(driver: Probed, gpu: Answer) -> Answer:
    """Whether the kernels in plans run on the GPU."""
    if gpu.verdict != "yes" or _capability(driver) >= OLDEST_GPU:
        return gpu
    return no(
        "the kernels in plans need compute capability {}.{}, and this GPU has {}.{}".format(
            *OLDEST_GPU, *_capability(driver)
        ),
        "use --backend onnxruntime-cuda",
    )


def _cuda_major(driver: Probed) -> int:
    """Packages exist for CUDA 12 and 13; without a driver the newer ones are advised."""
    cuda = driver.facts.get("cuda")
    return 12 if cuda and cuda[0] < 13 else 13


# -- backends ----------------------------------------------------------------------------------------------------------


def _onnxruntime(probed: Probed) -> Backend:
    run = in_turn(
        _loads(probed, "pip install 'udx[cpu]'"),
        _starts(
            probed.facts.get("starts", {}).get("CPUExecutionProvider"), "pip install --force-reinstall onnxruntime"
        ),
    )
    return Backend(name="onnxruntime", version=probed.facts.get("version"), build=YES, run=run)


def _onnxruntime_cuda(probed: Probed, machine: Machine, gpu: Answer) -> Backend:
    provider = "CUDAExecutionProvider"
    starts = probed.facts.get("starts", {})
    if probed.failure is not None:
        package = no(probed.failure, "pip install 'udx[gpu]'")
    elif provider in probed.facts["providers"]:
        package = YES
    elif {"onnxruntime", "onnxruntime-gpu"} <= set(machine.versions):
        package = no(
            "onnxruntime hides onnxruntime-gpu, which is installed beside it",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    else:
        package = no(
            "this ONNX Runtime is one for the CPU", "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
        )
    started = _starts(starts.get(provider), "pip install 'onnxruntime-gpu[cuda,cudnn]'")
    run = in_turn(all_of(package, gpu), started)
    return Backend(name="onnxruntime-cuda", version=probed.facts.get("version"), build=YES, run=run)


def _tensorrt(probed: Probed, driver: Probed, gpu: Answer, kernels: Answer, launcher: Answer) -> Backend:
    install = "pip install 'tensorrt-cu12>=10.15'" if _cuda_major(driver) == 12 else "pip install 'udx[tensorrt]'"
    version = probed.facts.get("version")
    library = _loads(probed, install)
    if version and (not probed.facts["compiled_plugins"] or _older(version, OLDEST_TENSORRT)):
        library = no(f"TensorRT {version} embeds no compiled plugins", install)
    reinstall = install.replace("install", "install --force-reinstall")
    return Backend(
        name="tensorrt",
        version=version,
        build=in_turn(all_of(library, _recent(driver, gpu), kernels), _starts(probed.facts.get("builder"), reinstall)),
        run=in_turn(all_of(library, launcher), _starts(probed.facts.get("runtime"), reinstall)),
    )


def _tensorrt_rtx(probed: Probed, driver: Probed, gpu: Answer, kernels: Answer, launcher: Answer) -> Backend:
    library = _loads(probed, "pip install 'udx[rtx]'")
    return Backend(
        name="tensorrt-rtx",
        version=probed.facts.get("version"),
        build=in_turn(all_of(library, kernels), _starts(probed.facts.get("builder"), REINSTALL_RTX)),
        run=in_turn(
            all_of(library, launcher),
            _starts(probed.facts.get("runtime"), REINSTALL_RTX),
            _supported_by_rtx(probed, driver, gpu),
        ),
    )


def _supported_by_rtx(probed: Probed, driver: Probed, gpu: Answer) -> Answer:
    """What the library says of the GPU; where its builder does not start, it could not be asked."""
    supported = probed.facts.get("capabilities")
    if gpu.verdict != "yes" or supported is None:
        return _starts(probed.facts.get("builder"), REINSTALL_RTX)
    major, minor = _capability(driver)
    if 10 * major + minor in supported:
        return YES
    return no(f"it does not support compute capability {major}.{minor}, only {listed(supported)}", OTHER_BACKENDS)


# -- libraries ---------------------------------------------------------------------------------------------------------


def _triton(probed: Probed) -> Answer:
    if probed.facts.get("interprets"):
        return no("Triton interprets kernels and compiles none", "unset TRITON_INTERPRET")
    if not probed.installed:
        return no("Triton, which compiles the kernels, is not installed", "pip install triton")
    reinstall = "pip install --force-reinstall triton"
    return in_turn(_loads(probed, reinstall), _starts(probed.facts.get("assembler"), reinstall))


def _torch(machine: Machine) -> Answer:
    if "torch" not in machine.versions:
        return no("torch is not installed", "pip install 'udx[train]'")
    return Answer(verdict="yes", why=f"for CUDA {machine.torch_cuda}" if machine.torch_cuda else "for the CPU")


def _library(name: str, needed_for: str, probed: Probed, works: Answer) -> Library:
    return Library(name=name, version=probed.facts.get("version"), needed_for=needed_for, works=works)


def _driver_library(name: str, needed_for: str, probed: Probed, gpu: Answer, install: str) -> Library:
    """A library that loads the driver's: without a GPU it is no wonder that it does not start."""
    if not probed.installed:
        works = _loads(probed, install, name)
    else:
        reinstall = install.replace("install", "install --force-reinstall")
        starts = _starts(probed.facts.get("starts"), reinstall, name)
        works = in_turn(gpu, _loads(probed, reinstall, name), starts)
    return _library(name, needed_for, probed, works)


def _any_of(first_is_installed: bool, callers: Sequence[Library]) -> Answer:
    """Whether the driver can be called: the first library is used where it is installed, or else the second."""
    return (callers[0] if first_is_installed else callers[-1]).works


def _loads(probed: Probed, mend: str, subject: str = "it") -> Answer:
    if probed.failure is None:
        return YES
    own_words = probed.failure.startswith("it ")
    return no(subject + probed.failure.removeprefix("it") if own_words else probed.failure, mend)


def _starts(failure: str | None, mend: str, subject: str = "it") -> Answer:
    return YES if failure is None else no(f"{subject} does not start: {failure}", mend)


def _older(version: str, oldest: tuple[int, int]) -> bool:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < oldest
