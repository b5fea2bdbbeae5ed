"""Questions to one library each, asked in a process of their own: a broken binary takes only that process with it.

``python -m udx.doctor.probes NAME`` prints what the library answers as one line of JSON behind ``MARK``; libraries may
print what they like before it. A library that starts nothing says why as text; what works is null.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from types import ModuleType
from typing import Any, Final

from udx.errors import UdxError, first_line

MARK: Final = "udx-probe:"

Facts = dict[str, Any]


def driver() -> Facts:
    """Version of the driver, the newest CUDA that it runs, and the GPUs."""
    from udx.runtime.cuda_driver import cuda_driver

    try:
        found = cuda_driver()
    except UdxError as error:
        return {"failure": str(error).partition("; ")[0]}
    return {
        "version": _driver_version(),
        "cuda": list(found.cuda_version),
        "gpus": [asdict(device) for device in found.devices],
    }


def onnxruntime() -> Facts:
    """Version, and for every provider that udx uses and this build has, whether a model runs on it."""
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    used = ("CPUExecutionProvider", "CUDAExecutionProvider")
    available = ort.get_available_providers()
    starts = {provider: _failure(lambda: _run_relu(ort, provider)) for provider in used if provider in available}  # noqa: B023
    return {"version": ort.__version__, "providers": available, "starts": starts}


def tensorrt() -> Facts:
    """Version, and whether builder and runtime start."""
    import tensorrt as trt
    import tensorrt.plugin as plugin

    return _engine_library(trt) | {"compiled_plugins": hasattr(plugin, "aot_impl")}


def tensorrt_rtx() -> Facts:
    """Version, whether builder and runtime start, and the compute capabilities (× 10) that the library supports."""
    import tensorrt_rtx_bindings as trt

    from udx.runtime.rtx import supported_capabilities

    found = _engine_library(trt)
    return found | {"capabilities": None if found["builder"] else supported_capabilities(trt)}


def triton() -> Facts:
    """Version, whether it interprets kernels instead of compiling them, and whether its assembler is there."""
    import triton
    from triton import knobs
    from triton.backends.nvidia.compiler import get_ptxas

    return {
        "version": triton.__version__,
        "interprets": bool(knobs.runtime.interpret),
        "assembler": _failure(lambda: get_ptxas(80)),
    }


def pycuda() -> Facts:
    """Version, and whether it reaches the driver."""
    import pycuda.driver

    return {"version": ".".join(map(str, pycuda.VERSION)), "starts": _failure(pycuda.driver.init)}


def cuda_bindings() -> Facts:
    """Version, and whether it reaches the driver."""
    from importlib import metadata

    from cuda.bindings import driver as cuda

    def start() -> None:
        (status,) = cuda.cuInit(0)
        if int(status):
            raise RuntimeError(f"cuInit answers {status}")

    return {"version": metadata.version("cuda-bindings"), "starts": _failure(start)}


PROBES: Final[dict[str, Callable[[], Facts]]] = {
    probe.__name__: probe for probe in (driver, onnxruntime, tensorrt, tensorrt_rtx, triton, pycuda, cuda_bindings)
}


def main(name: str) -> None:
    """Print what a probe finds."""
    print(MARK + json.dumps(PROBES[name]()), flush=True)


def _failure(start: Callable[[], object]) -> str | None:
    """Why something does not start; None if it does."""
    try:
        start()
    except Exception as error:
        return first_line(error)
    return None


def _driver_version() -> str | None:
    """Version of the driver as its management library tells it."""
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    version = ctypes.create_string_buffer(96)
    if library.nvmlInit_v2() or library.nvmlSystemGetDriverVersion(version, len(version)):
        return None
    return version.value.decode(errors="replace")


def _run_relu(ort: ModuleType, provider: str) -> None:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=[provider])
    if session.get_providers()[0] != provider:
        raise RuntimeError("its CUDA libraries cannot be loaded")
    import numpy as np

    session.run(None, {"x": np.ones(1, np.float32)})


def _engine_library(trt: ModuleType) -> Facts:
    from udx.build.network import logger

    log, messages = logger(trt)

    def start(kind: Callable[[Any], object]) -> None:
        messages.clear()
        try:
            kind(log)
        except TypeError as error:  # how the bindings say that the library returned nothing
            raise RuntimeError("; ".join(messages.errors) or "it gives no reason") from error

    return {
        "version": trt.__version__,
        "builder": _failure(lambda: start(trt.Builder)),
        "runtime": _failure(lambda: start(trt.Runtime)),
    }


if __name__ == "__main__":
    main(sys.argv[1])
