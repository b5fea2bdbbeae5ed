"""TensorRT's Python package on TensorRT-RTX's library: three small libraries under the names that the package loads.

``tensorrt_bindings`` needs ``libnvinfer``, ``libnvinfer_plugin`` and ``libnvonnxparser`` of its major version, which
PyPI does not hold. TensorRT-RTX's library exports the same functions with the same interfaces, as long as it is of the
same line: TensorRT-RTX 1.5 and later serve TensorRT 11, TensorRT-RTX 1.4 serves TensorRT 10.15 and 10.16.
"""

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

NO_PLUGINS = "int initLibNvInferPlugins(void* logger, const char* space) { return 1; }\n"
EMPTY = "int udx_shim;\n"
SOURCES = {
    "nvinfer": (EMPTY, "libtensorrt_rtx.so.1"),
    "nvinfer_plugin": (NO_PLUGINS, None),
    "nvonnxparser": (EMPTY, "libtensorrt_onnxparser_rtx.so.1"),
}


def find_compiler() -> str | None:
    """Return the C++ compiler of this machine, or None."""
    return shutil.which("c++") or shutil.which("g++")


def headers_major(include: Path) -> str:
    """Return the major version of TensorRT whose headers are in ``include``."""
    text = (include / "NvInferVersion.h").read_text(encoding="utf-8")
    found = re.search(r"^#define (?:TRT_MAJOR_ENTERPRISE|NV_TENSORRT_MAJOR) (\d+)", text, re.MULTILINE)
    assert found is not None, f"{include} holds no headers of TensorRT"
    return found[1]


def build_shims(rtx_libraries: Path, major: str, folder: Path) -> None:
    """Compile the three libraries into ``folder``; they hand every call on to TensorRT-RTX's library."""
    compiler = find_compiler()
    assert compiler is not None
    for name, (text, target) in SOURCES.items():
        source, library = folder / f"{name}.c", f"lib{name}.so.{major}"
        source.write_text(text)
        command = [compiler, "-x", "c", "-shared", "-fPIC", str(source), "-x", "none", "-o", str(folder / library)]
        command += [f"-Wl,-soname,{library}"]
        if target is not None:
            command += ["-Wl,--no-as-needed", f"-L{rtx_libraries}", f"-l:{target}", f"-Wl,-rpath,{rtx_libraries}"]
        subprocess.run(command, check=True, capture_output=True, text=True)


def build_driver(include: Path, folder: Path) -> Path:
    """Compile ``driver.cpp`` against TensorRT's headers; CUDA's come with Triton."""
    import triton

    assert triton.__file__ is not None
    cuda = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    library, compiler = folder / "driver.so", find_compiler()
    assert compiler is not None
    command = [compiler, "-std=c++17", "-w", "-shared", "-fPIC", str(Path(__file__).with_name("driver.cpp"))]
    command += ["-o", str(library), f"-I{include}", f"-I{cuda}"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def import_tensorrt(shims: Path, major: str) -> ModuleType:
    """Import ``tensorrt_bindings`` as ``tensorrt``, with the libraries in ``shims``."""
    for name in SOURCES:
        ctypes.CDLL(str(shims / f"lib{name}.so.{major}"), mode=ctypes.RTLD_GLOBAL)
    import tensorrt_bindings

    sys.modules["tensorrt"] = tensorrt_bindings
    found: ModuleType = tensorrt_bindings
    return found
