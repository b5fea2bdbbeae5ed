"""TensorRT's own Python of ``tensorrt.plugin``, on a stand-in for its C++ side that does what a builder does.

The wheel ``tensorrt-cu13-bindings`` holds that Python; importing it needs TensorRT's libraries. Here the names that
come from them are replaced by the least that works, and ``Builder`` asks a plugin what TensorRT asks it, in order.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

DataType = Enum("DataType", "FLOAT HALF BF16 INT32 INT64 INT8 BOOL")
PluginFieldType = Enum("PluginFieldType", "INT8 INT16 INT32 INT64 FLOAT16 FLOAT32 FLOAT64 CHAR UNKNOWN")
DimensionOperation = Enum("DimensionOperation", "SUM PROD MAX MIN SUB EQUAL LESS FLOOR_DIV CEIL_DIV")
ARITHMETIC = {
    DimensionOperation.SUM: lambda left, right: left + right,
    DimensionOperation.SUB: lambda left, right: left - right,
    DimensionOperation.PROD: lambda left, right: left * right,
    DimensionOperation.MAX: max,
    DimensionOperation.CEIL_DIV: lambda left, right: -(-left // right),
}


@dataclass
class DimensionExpr:
    """A dimension during the build: its value is known here, but the plugin may not ask."""

    value: int

    def is_constant(self) -> bool:
        return False

    def get_constant_value(self) -> int:
        raise AssertionError("a plugin may not depend on the value of a dynamic dimension")


class ExprBuilder:
    """Builds dimensions from dimensions."""

    def constant(self, value: int) -> DimensionExpr:
        return DimensionExpr(value)

    def operation(self, operation: DimensionOperation, left: DimensionExpr, right: DimensionExpr) -> DimensionExpr:
        return DimensionExpr(ARITHMETIC[operation](left.value, right.value))


@dataclass
class PluginField:
    """An attribute on its way into a plugin."""

    name: str
    data: Any
    type: PluginFieldType


@dataclass
class PluginTensorDesc:
    """A tensor during the build."""

    type: Any = None
    format: Any = None
    dims: Sequence[int] = ()
    scale: float = 0.0


@dataclass
class DynamicPluginTensorDesc:
    """A tensor with the range of its dimensions."""

    desc: PluginTensorDesc
    opt: Sequence[int] = ()
    min: Sequence[int] = ()
    max: Sequence[int] = ()


class Dims(list):
    """A shape."""

    MAX_DIMS = 8


class _Interface:
    """Any of the interfaces that plugins implement in Python."""

    def __init__(self) -> None:
        pass


class IPlugin(_Interface): ...


class ICore(_Interface): ...


class IBuild(_Interface): ...


class IAotBuild(IBuild): ...


class IRuntime(_Interface): ...


class Logger:
    """Hears the module say that it is experimental."""

    WARNING = "warning"

    def log(self, severity: str, message: str) -> None:
        assert severity == self.WARNING and "experimental" in message


@dataclass
class Registry:
    """Creators by name, version and namespace."""

    creators: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    def register_creator(self, creator: Any, namespace: str) -> None:
        self.creators[creator.name, creator.plugin_version, namespace] = creator

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[name, version, namespace]


def module(registry: Registry) -> ModuleType:
    """The names of ``tensorrt`` that ``tensorrt.plugin`` uses."""
    tensorrt = ModuleType("tensorrt")
    names = {
        "DataType": DataType,
        "float32": DataType.FLOAT,
        "float16": DataType.HALF,
        "bfloat16": DataType.BF16,
        "int32": DataType.INT32,
        "int64": DataType.INT64,
        "TensorFormat": Enum("TensorFormat", "LINEAR HWC"),
        "DimensionOperation": DimensionOperation,
        "PluginFieldType": PluginFieldType,
        "PluginArgType": Enum("PluginArgType", "INT"),
        "PluginArgDataType": Enum("PluginArgDataType", "INT8 INT16 INT32"),
        "TensorRTPhase": Enum("TensorRTPhase", "BUILD RUNTIME"),
        "QuickPluginCreationRequest": Enum(
            "QuickPluginCreationRequest", "UNKNOWN PREFER_JIT PREFER_AOT STRICT_JIT STRICT_AOT"
        ),
        "IDimensionExpr": DimensionExpr,
        "IExprBuilder": ExprBuilder,
        "ISymExpr": _Interface,
        "ITensor": _Interface,
        "IPluginV3": IPlugin,
        "IPluginV3QuickCore": ICore,
        "IPluginV3QuickBuild": IBuild,
        "IPluginV3QuickAOTBuild": IAotBuild,
        "IPluginV3QuickRuntime": IRuntime,
        "IPluginCreatorV3Quick": _Interface,
        "Dims": Dims,
        "DimsExprs": lambda length: [None] * length,
        "PluginField": PluginField,
        "PluginFieldCollection": list,
        "PluginTensorDesc": PluginTensorDesc,
        "DynamicPluginTensorDesc": DynamicPluginTensorDesc,
        "Logger": Logger,
        "get_plugin_registry": lambda: registry,
    }
    for name, value in names.items():
        setattr(tensorrt, name, value)
    return tensorrt


@contextmanager
def installed(bindings: Path) -> Iterator[tuple[ModuleType, Registry]]:
    """``import tensorrt`` gives the stand-in, and ``tensorrt.plugin`` the Python in ``bindings``."""
    registry = Registry()
    tensorrt = module(registry)
    tensorrt.__path__ = [str(bindings)]
    real = _taken_out()
    sys.modules["tensorrt"] = tensorrt
    try:
        importlib.import_module("tensorrt.plugin")
        yield tensorrt, registry
    finally:
        _taken_out()
        sys.modules.update(real)


def _taken_out() -> dict[str, ModuleType]:
    """Whatever of TensorRT is imported, no longer so."""
    names = [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]
    return {name: sys.modules.pop(name) for name in names}


class Scalars(dict):
    """Extra arguments by place."""

    nbSymExprs: int


@dataclass
class Built:
    """What the engine would keep of a plugin: outputs, and one kernel with its launch."""

    output_types: list[Any]
    output_shapes: list[tuple[int, ...]]
    aliased: list[int]
    combinations: set[tuple[Any, ...]]
    entry: str
    ptx: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    scalars: list[int]


def build(
    tensorrt: ModuleType,
    registry: Registry,
    name: str,
    attributes: dict[str, Any],
    inputs: Sequence[tuple[DataType, tuple[int, ...]]],
) -> Built:
    """Create the compiled form of a plugin from a node's attributes, as the parser does, and ask it for its launch."""
    creator = registry.get_creator(name, "1", "udx")
    kinds = {float: (np.float32, PluginFieldType.FLOAT32), int: (np.int32, PluginFieldType.INT32)}
    fields = [
        PluginField(item.name, np.array([attributes[item.name]], kinds[type(attributes[item.name])][0]), item.type)
        for item in creator.field_names
        if item.name in attributes
    ]
    request = tensorrt.QuickPluginCreationRequest.STRICT_AOT
    plugin = creator.create_plugin(name, "udx", fields, tensorrt.TensorRTPhase.BUILD, request)
    types = [kind for kind, _ in inputs]
    builder = ExprBuilder()
    output_types = plugin.get_output_data_types(types, [len(shape) for _, shape in inputs])
    symbols = [[DimensionExpr(length) for length in shape] for _, shape in inputs]
    shapes = [tuple(size.value for size in sizes) for sizes in plugin.get_output_shapes(symbols, [], builder)]
    linear = tensorrt.TensorFormat.LINEAR
    tensors = [*inputs, *zip(output_types, shapes, strict=True)]
    descs = [
        DynamicPluginTensorDesc(PluginTensorDesc(kind, linear, shape), shape, shape, shape) for kind, shape in tensors
    ]
    supported = plugin.get_supported_format_combinations(descs, len(inputs))
    combinations = {
        tuple(desc.type for desc in supported[first : first + len(tensors)])
        for first in range(0, len(supported), len(tensors))
    }
    plugin.configure_plugin(descs[: len(inputs)], descs[len(inputs) :])
    assert plugin.get_valid_tactics() == []
    plugin.set_tactic(0)
    launch, scalars = SimpleNamespace(), Scalars()
    plugin.get_launch_params(symbols, descs, len(inputs), launch, scalars, builder)
    entry, ptx = plugin.get_kernel(
        [desc.desc for desc in descs[: len(inputs)]], [desc.desc for desc in descs[len(inputs) :]]
    )
    assert scalars.nbSymExprs == len(scalars)
    return Built(
        output_types=output_types,
        output_shapes=shapes,
        aliased=[plugin.get_aliased_input(index) for index in range(len(output_types))],
        combinations=combinations,
        entry=entry,
        ptx=ptx.decode(),
        grid=tuple(getattr(launch, f"grid_{axis}").expr.value for axis in "xyz"),
        block=tuple(getattr(launch, f"block_{axis}").expr.value for axis in "xyz"),
        shared_bytes=launch.shared_mem.expr.value,
        scalars=[scalars[place].expr.value for place in range(len(scalars))],
    )
