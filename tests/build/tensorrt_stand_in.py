"""``import tensorrt`` without TensorRT: what a build uses of TensorRT 10.15, answering as it does.

The names are those of ``tensorrt`` 10.15 and 11.4. What is imitated: a parser that lets a model's own function win over
a plugin unless the node carries ``plugin_namespace``; networks that hand out the base class of all layers; a builder
that tells its progress from a thread of its own, stops when it is told to, and refuses plugins that write into an
input's memory unless the preview feature is on; timing caches that are refused on another GPU; engines that load with
the version that built them only.
"""

import json
import sys
import threading
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
from onnx.helper import get_attribute_value

from udx.operators import OPERATORS

IN_PLACE = {"UdxVoxelSums", "UdxPillarMax"}
PHASES = {"Building engine": (None, 3), "Optimizing graph": ("Building engine", 4), "Timing tactics": (None, 5)}

Severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
CreationFlag = IntEnum("CreationFlag", {"STRONGLY_TYPED": 1})
LayerType = Enum("LayerType", "CONVOLUTION CAST CONSTANT PLUGIN PLUGIN_V2 PLUGIN_V3")
TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")
BuilderFlag = Enum("BuilderFlag", "TF32 REFIT")
PreviewFeature = Enum("PreviewFeature", "ALIASED_PLUGIN_IO_10_03")
ProfilingVerbosity = Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
MemoryPoolType = Enum("MemoryPoolType", "WORKSPACE")
PluginCapabilityType = Enum("PluginCapabilityType", "CORE BUILD RUNTIME")


class HostMemory(bytes):
    """Memory of the library; Python sees it as a buffer."""


@dataclass
class Machine:
    """The GPU and the library of the test, and what they were asked to do."""

    gpu: str = "Some GPU"
    version: str = "10.15.1.29"
    starts: bool = True
    builds: int = 0
    refuses: str | None = None
    plugins: dict[tuple[str, str, str], str] = field(default_factory=dict)
    configs: list["Config"] = field(default_factory=list)


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.initialised = True


class IProgressMonitor:
    def __init__(self) -> None:
        self.initialised = True


class ILayer:
    def __init__(self, name: str, kind: LayerType, plugin: Any = None) -> None:
        self.name, self.type, self._plugin = name, kind, plugin


class IPluginV3Layer(ILayer):
    @property
    def plugin(self) -> Any:
        return self._plugin


@dataclass
class Network:
    layers: list[ILayer] = field(default_factory=list)
    model: onnx.ModelProto | None = None

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> ILayer:
        return self.layers[index]


def module(machine: Machine) -> ModuleType:
    """The names of ``tensorrt`` that a build uses."""
    trt = ModuleType("tensorrt")
    trt.__spec__ = ModuleSpec("tensorrt", None)  # whoever looks for the module finds it
    for name, value in {
        "__version__": machine.version,
        "ILogger": ILogger,
        "IProgressMonitor": IProgressMonitor,
        "ILayer": ILayer,
        "IPluginV3Layer": IPluginV3Layer,
        "LayerType": LayerType,
        "TensorIOMode": TensorIOMode,
        "BuilderFlag": BuilderFlag,
        "PreviewFeature": PreviewFeature,
        "ProfilingVerbosity": ProfilingVerbosity,
        "MemoryPoolType": MemoryPoolType,
        "PluginCapabilityType": PluginCapabilityType,
        "NetworkDefinitionCreationFlag": CreationFlag,
        "nptype": lambda name: np.dtype(name).type,
        "Builder": lambda logger: Builder(machine, logger),
        "Runtime": lambda logger: Runtime(machine, logger),
        "OnnxParser": lambda network, logger: Parser(machine, network, logger),
        "float32": "float32",
        "float16": "float16",
        "bfloat16": "bfloat16",
        "int32": "int32",
    }.items():
        setattr(trt, name, value)
    return trt


def plugin_module(machine: Machine) -> ModuleType:
    """The names of ``tensorrt.plugin`` that registering a plugin uses."""
    trtp = ModuleType("tensorrt.plugin")

    def register(plugin: str) -> Any:
        namespace, name = plugin.split("::")
        machine.plugins[name, "1", namespace] = name
        return lambda function: function

    def completed(plugin: str) -> Any:
        namespace, name = plugin.split("::")
        assert (name, "1", namespace) in machine.plugins, "register comes first"
        return lambda function: function

    trtp.op = SimpleNamespace()
    trtp.register, trtp.autotune, trtp.aot_impl = register, completed, completed
    for name in ("TensorDesc", "AutoTuneCombination", "KernelLaunchParams", "SymIntExprs", "SymInt32"):
        setattr(trtp, name, type(name, (), {}))
    return trtp


def install(monkeypatch: Any, machine: Machine) -> ModuleType:
    """Let ``import tensorrt`` give the stand-in until the test ends."""
    trt, trtp = module(machine), plugin_module(machine)
    trt.plugin = trtp
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", trtp)
    return trt


class Error:
    """An error of the parser: all of it is behind calls."""

    def __init__(self, node: onnx.NodeProto, desc: str) -> None:
        self._node, self._desc = node, desc

    def node_operator(self) -> str:
        return self._node.op_type

    def node_name(self) -> str:
        return self._node.name

    def desc(self) -> str:
        return self._desc


class Parser:
    def __init__(self, machine: Machine, network: Network, logger: ILogger) -> None:
        assert logger.initialised
        self._machine, self._network, self._errors = machine, network, []

    def parse(self, model: bytes, path: str) -> bool:
        assert isinstance(model, bytes) and isinstance(path, str)
        self._network.model = onnx.load_from_string(model)
        functions = {function.name for function in self._network.model.functions}
        for node in self._network.model.graph.node:
            self._read(node, functions)
        return not self._errors

    def _read(self, node: onnx.NodeProto, functions: set[str]) -> None:
        given = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
        namespace, version = given.get("plugin_namespace", b"").decode(), given.get("plugin_version", b"1").decode()
        known = self._machine.plugins.get((node.op_type, version, namespace))
        if node.op_type == self._machine.refuses:
            self._errors.append(Error(node, f"Invalid Node - {node.name}\nthis is not supported"))
        elif "plugin_namespace" in given and known is not None:
            core = SimpleNamespace(plugin_name=node.op_type, plugin_namespace=namespace, plugin_version=version)
            plugin = SimpleNamespace(get_capability_interface={PluginCapabilityType.CORE: core}.__getitem__)
            self._network.layers.append(ILayer(node.name, LayerType.PLUGIN_V3, plugin))
        elif node.op_type in functions:
            self._network.layers += [ILayer(f"{node.name}_{step}", LayerType.CAST) for step in range(3)]
        elif node.domain:
            self._errors.append(Error(node, "Plugin not found, are the plugin name, version, and namespace correct?"))
        else:
            self._network.layers.append(ILayer(node.name or f"node_of_{node.output[0]}", LayerType.CONVOLUTION))

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Error:
        return self._errors[index]


@dataclass
class TimingCache:
    gpu: str
    measured: int = 0

    def serialize(self) -> HostMemory:
        return HostMemory(f"timings {self.gpu} {self.measured}".encode())


class Config:
    """Starts with TF32 on, as TensorRT's does."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.flags = {BuilderFlag.TF32}
        self.previews: set[PreviewFeature] = set()
        self.limits: dict[MemoryPoolType, int] = {}
        self.builder_optimization_level = 3
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: Any = None
        self.timings: TimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def set_preview_feature(self, feature: PreviewFeature, enable: bool) -> None:
        (self.previews.add if enable else self.previews.discard)(feature)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        assert isinstance(size, int)
        self.limits[pool] = size

    def create_timing_cache(self, stored: bytes) -> TimingCache | None:
        if not stored:
            return TimingCache(self._machine.gpu)
        parts = stored.decode().rsplit(" ", 1)
        if not parts[0].startswith("timings "):
            return None
        return TimingCache(parts[0].removeprefix("timings "), int(parts[1]))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.gpu != self._machine.gpu and not ignore_mismatch:
            return False
        self.timings = cache
        return True


class Builder:
    def __init__(self, machine: Machine, logger: Any) -> None:
        if not machine.starts:
            logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._machine, self._logger = machine, logger

    def create_network(self, flags: int = 0) -> Network:
        assert flags & (1 << CreationFlag.STRONGLY_TYPED), "precision is what the file says"
        return Network()

    def create_builder_config(self) -> Config:
        self._machine.configs.append(Config(self._machine))
        return self._machine.configs[-1]

    def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None:
        self._machine.builds += 1
        plugins = {layer._plugin.get_capability_interface(PluginCapabilityType.CORE).plugin_name
                   for layer in network.layers if layer.type is LayerType.PLUGIN_V3}  # fmt: skip
        if plugins & IN_PLACE and not config.previews:
            self._logger.log(Severity.ERROR, "Error Code 4: API Usage Error (aliased I/O needs a preview feature)")
            return None
        finished: list[bool] = []
        worker = threading.Thread(target=lambda: finished.append(_work(config)))
        worker.start()
        worker.join()
        if not finished[0]:
            self._logger.log(Severity.ERROR, "Error Code 7: BuildCanceled (Build canceled by user)")
            return None
        self._logger.log(Severity.WARNING, "a layer has no choice of tactics")
        return HostMemory(b"ftrt" + json.dumps(self._engine(network)).encode())

    def _engine(self, network: Network) -> dict[str, Any]:
        from udx.tensors import tensor_spec

        graph = network.model.graph
        stored = {tensor.name for tensor in graph.initializer}
        listed = [("INPUT", value) for value in graph.input if value.name not in stored]
        listed += [("OUTPUT", value) for value in graph.output]
        specs = [(mode, tensor_spec(value)) for mode, value in listed]
        return {
            "version": self._machine.version,
            "layers": network.num_layers,
            "tensors": [(spec.name, mode, spec.shape, spec.dtype) for mode, spec in reversed(specs)],
        }


def _work(config: Config) -> bool:
    """Tell of all phases, and say whether nobody has stopped it."""
    monitor = config.progress_monitor
    going = True
    for name, (parent, steps) in PHASES.items():
        monitor.phase_start(name, parent, steps)
        for step in range(steps):
            going = going and monitor.step_complete(name, step)
            if config.timings is not None:
                config.timings.measured += 1
        monitor.phase_finish(name)
    return going


class Engine:
    def __init__(self, described: dict[str, Any]) -> None:
        self.num_layers = described["layers"]
        self.device_memory_size_v2 = 3 << 20
        self._tensors = described["tensors"]
        self._by_name = {tensor[0]: tensor for tensor in self._tensors}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return self._tensors[index][0]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode[self._by_name[name][1]]

    def get_tensor_shape(self, name: str) -> list[int]:
        return self._by_name[name][2]

    def get_tensor_dtype(self, name: str) -> str:
        return self._by_name[name][3]


class Runtime:
    def __init__(self, machine: Machine, logger: Any) -> None:
        self._machine, self._logger = machine, logger

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        assert plan.startswith(b"ftrt")
        described = json.loads(plan[4:])
        if described["version"] != self._machine.version:
            self._logger.log(Severity.ERROR, "Error Code 6: API Usage Error (the engine plan file is not compatible)")
            return None
        return Engine(described)


assert {kind.name for kind in OPERATORS} >= IN_PLACE
