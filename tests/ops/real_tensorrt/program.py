"""Register udx's plugins with the real TensorRT package, create and configure them, and print what it answered as JSON.

Started as a program of its own, because ``import tensorrt`` lasts as long as a process:
``program.py RTX_LIBRARIES SHIM_FOLDER [INCLUDE]``. With TensorRT's headers of the same major version a C++ program
(``driver.cpp``) also asks every plugin what a builder asks.
"""

import ctypes
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tests.ops.real_tensorrt.cases import CASES, Case
from tests.ops.real_tensorrt.libraries import build_driver, build_shims, headers_major, import_tensorrt

JSON_BYTES = 1 << 16


def main() -> None:
    """Run every check that the arguments allow."""
    libraries, shims = Path(sys.argv[1]), Path(sys.argv[2])
    include = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    major = bindings_version().partition(".")[0]
    build_shims(libraries, major, shims)
    trt = import_tensorrt(shims, major)
    answers: dict[str, Any] = {"tensorrt": trt.__version__, "numpy": np.__version__}

    from udx.ops.tensorrt_plugins import register_plugins

    register_plugins()
    register_plugins()  # changes nothing
    registry = trt.get_plugin_registry()
    answers["creators"] = sorted(item.name for item in registry.all_creators if item.plugin_namespace == "udx")
    answers["plugins"] = {case.name: created(trt, registry, case) for case in CASES}
    if major == "11":  # TensorRT-RTX 1.4 configures its builder through another interface than TensorRT 10 does
        answers["configuration"] = configuration(trt)
    if include is not None and headers_major(include) == major:
        driver = build_driver(include, shims)
        answers["driven"] = {case.name: driven(driver, case, shims) for case in CASES}
    print(json.dumps(answers))


def bindings_version() -> str:
    """Read the version of ``tensorrt_bindings`` without importing it."""
    from importlib.util import find_spec

    spec = find_spec("tensorrt_bindings")
    assert spec is not None and spec.origin is not None
    lines = Path(spec.origin).read_text(encoding="utf-8").splitlines()
    (version,) = [line.split('"')[1] for line in lines if line.startswith("__version__")]
    return version


def created(trt: ModuleType, registry: Any, case: Case) -> dict[str, Any]:
    """Create a plugin's compiled form as the ONNX parser does: attributes are arrays of shape (1,)."""
    creator = registry.get_creator(case.name, "1", "udx")
    kinds = {float: (np.float32, trt.PluginFieldType.FLOAT32), int: (np.int32, trt.PluginFieldType.INT32)}
    fields = []
    for name, value in case.attributes.items():
        dtype, kind = kinds[type(value)]
        fields.append(trt.PluginField(name, np.array([value], dtype), kind))
    collection, build = trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD
    plugin = creator.create_plugin(case.name, "udx", collection, build, trt.QuickPluginCreationRequest.STRICT_AOT)
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    return {
        "type": type(plugin).__name__,
        "core": [core.plugin_name, core.plugin_namespace, core.plugin_version],
        "fields": [field.name for field in creator.field_names],
        "field_types": [field.type.name for field in creator.field_names],
    }


def configuration(trt: ModuleType) -> dict[str, Any]:
    """Configure the real builder as ``udx build`` does, and read the configuration back.

    Networks are left out: TensorRT-RTX's lack some of TensorRT's layers, so that their interfaces differ.
    """
    from udx.build.builder import TensorrtSettings, configure_builder
    from udx.build.network import logger
    from udx.build.watch import Watch, monitor

    class Display:
        def start(self, phase: str, depth: int | None, steps: int) -> None: ...
        def advance(self, phase: str, done: int) -> None: ...
        def finish(self, phase: str) -> None: ...

    builder = trt.Builder(logger(trt)[0])
    config = configure_builder(trt, builder, TensorrtSettings(level=2, tf32=False, workspace_gib=0.5))
    progress = monitor(trt, Watch(Display()))
    config.progress_monitor = progress
    return {
        "level": config.builder_optimization_level,
        "tf32": config.get_flag(trt.BuilderFlag.TF32),
        "aliased": config.get_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03),
        "workspace": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        "verbosity": config.profiling_verbosity.name,
        "monitored": config.progress_monitor is not None,
    }


def driven(driver: Path, case: Case, folder: Path) -> dict[str, Any]:
    """Ask a plugin through C++ what a builder asks it."""
    library = ctypes.CDLL(str(driver))
    attributes = case.attributes
    names = (ctypes.c_char_p * len(attributes))(*(name.encode() for name in attributes))
    floats = (ctypes.c_int32 * len(attributes))(*(isinstance(value, float) for value in attributes.values()))
    values = (ctypes.c_double * len(attributes))(*attributes.values())
    types = (ctypes.c_int32 * len(case.inputs))(*(TYPES[tensor.dtype] for tensor in case.inputs))
    ranks = (ctypes.c_int32 * len(case.inputs))(*(len(tensor.shape) for tensor in case.inputs))
    sizes = [size for tensor in case.inputs for size in tensor.shape]
    shapes = (ctypes.c_int64 * len(sizes))(*sizes)
    text = ctypes.create_string_buffer(JSON_BYTES)
    kernel = folder / f"{case.name}.ptx"
    failed = library.drive_plugin(
        case.name.encode(), len(attributes), names, floats, values, len(case.inputs), types, ranks, shapes,
        str(kernel).encode(), text, JSON_BYTES,
    )  # fmt: skip
    if failed:
        return {"failed_step": failed}
    found: dict[str, Any] = json.loads(text.value.decode())
    return found | {"kernel": kernel.read_text()}


TYPES = {"float32": 0, "float16": 1, "int32": 3}
"""Values of ``nvinfer1::DataType``."""

if __name__ == "__main__":
    main()
