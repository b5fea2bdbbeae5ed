"""A GPU where there is none: the driver of the device layer, and what it uses of TensorRT's runtime.

What is imitated is what can go wrong: memory has addresses, an end, and must be freed; work on a stream is not done
before somebody waits for it, and reads page-locked memory only then; a stream that captures runs nothing; every call
needs the context to be current. Engines are ONNX models, run by ONNX Runtime; kernels are run by NumPy. So a plan gives
the very bits that it gives on the CPU, if addresses, arguments and order are right.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from udx.runtime.cuda_driver import CudaDevice, CudaDriver
from udx.runtime.device.errors import CallError, OutOfMemory
from udx.runtime.numpy_kernels import run_kernel
from udx.runtime.onnxruntime_runner import open_session
from udx.runtime.partitioned import PartitionedPlan
from udx.tensors import tensor_spec

PAGE = 4096
DIAGNOSTICS = {
    "VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4, "OLD_CUDA_RUNTIME": 8,
    "INSUFFICIENT_GPU_MEMORY": 16, "MALFORMED_ENGINE": 32, "CUDA_ERROR": 64,
}  # fmt: skip
"""As TensorRT-RTX 1.7 has them; ``tests/runtime/test_rtx.py`` holds them to the library."""
Operation = tuple[tuple[Any, ...], Callable[[], None]]
"""What is recorded of an operation, and the operation."""


@dataclass
class Gpu:
    """The machine: ``fails`` maps the number of a call to what it says; ``lost`` makes all calls say it."""

    plan: PartitionedPlan | None = None
    capability: tuple[int, int] = (8, 9)
    free_bytes: int = 1 << 30
    versions: dict[str, str] = field(default_factory=lambda: {"tensorrt_rtx_bindings": "1.7.1.116"})
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    fails: dict[int, str] = field(default_factory=dict)
    lost: str | None = None
    supported: tuple[int, ...] = (75, 80, 86, 89, 120, 121)
    validity: tuple[str, int] = ("VALID", 0)
    capturable: bool = True
    compiled: list[str] = field(default_factory=list)
    refuses: set[str] = field(default_factory=set)
    blocks: dict[int, np.ndarray] = field(default_factory=dict)
    locked: dict[int, int] = field(default_factory=dict)
    modules: dict[int, dict[str, Any]] = field(default_factory=dict)
    functions: dict[int, "Function"] = field(default_factory=dict)
    events: set[int] = field(default_factory=set)
    graphs: dict[int, list[Operation]] = field(default_factory=dict)
    streams: dict[int, "Stream"] = field(default_factory=dict)
    done: list[tuple[Any, ...]] = field(default_factory=list)
    current: int = 0
    retained: int = 0
    last: int = 0x7F0000000000

    @property
    def leaks(self) -> dict[str, int]:
        """What was taken and not given back."""
        held = {
            "blocks": self.blocks, "locked": self.locked, "events": self.events, "graphs": self.graphs,
            "streams": self.streams, "modules": self.modules,
        }  # fmt: skip
        found = {name: len(things) for name, things in held.items()} | {"contexts": self.retained}
        return {name: count for name, count in found.items() if count}

    def call(self, name: str, *facts: Any, context: bool = True) -> str | None:
        """Record a call; return what it fails with."""
        assert self.current or not context, f"{name} without a context"
        self.calls.append((name, *facts))
        return (
            self.lost or self.fails.get(len(self.calls)) or (name in self.refuses and "operation not permitted") or None
        )

    def address(self, size: int) -> int:
        start = self.last
        self.last += -(-size // PAGE) * PAGE + PAGE
        return start

    def view(self, address: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor at an address; what lies outside of all blocks is an illegal access."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        for base, block in self.blocks.items():
            if base <= address and address + size <= base + len(block):
                return block[address - base : address - base + size].view(dtype).reshape(shape)
        raise AssertionError(f"illegal memory access: {size} bytes at {address:x}")

    def enqueue(self, handle: int, facts: tuple[Any, ...], work: Callable[[], None]) -> None:
        stream = self.streams[handle]
        (stream.queue if stream.capturing is None else stream.capturing).append((facts, work))


class Stream:
    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.handle = gpu, gpu.address(1)
        self.queue: list[Operation] = []
        self.capturing: list[Operation] | None = None
        gpu.streams[self.handle] = self

    def synchronize(self) -> None:
        raised(self.gpu.call("cuStreamSynchronize"), "cuStreamSynchronize")
        assert self.capturing is None, "a capture does not bear waiting"
        while self.queue:
            facts, work = self.queue.pop(0)
            self.gpu.done.append(facts)
            work()


def raised(failure: str | None, call: str) -> None:
    """Fail as the implementations of ``Driver`` do."""
    if failure:
        raise (OutOfMemory if failure == "out of memory" else CallError)(f"{call} failed: {failure}")


@dataclass
class Function:
    gpu: Gpu
    image: dict[str, Any]
    entry: str
    shared: int = 48 * 2**10

    def run(self, arguments: tuple[int, ...]) -> None:
        """Find the step by its addresses, and do what its kernel does."""
        gpu, plan = self.gpu, self.gpu.plan
        assert plan is not None
        arena = min(gpu.blocks)
        for step in plan.kernel_steps:
            inputs, outputs = ([plan.by_name[name] for name in names] for names in (step.inputs, step.outputs))
            found = (*(arguments[: len(inputs)]), *(arguments[-len(outputs) :]))
            if step.launch.kernel == self.image["kernel"] and found == tuple(
                arena + tensor.offset for tensor in (*inputs, *outputs)
            ):
                views = [gpu.view(arena + one.offset, one.dtype, one.shape) for one in (*inputs, *outputs)]
                run_kernel(step.launch, views[: len(inputs)], views[len(inputs) :])
                return
        raise AssertionError(f"no step of the plan launches {self.entry} like this")


class StandInDriver:
    """``udx.runtime.device.driver.Driver`` without a GPU; ``test_driver.py`` tests the real ones."""

    name = "a stand-in"

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._call("cuInit", context=False)

    def _call(self, name: str, *facts: Any, context: bool = True) -> None:
        raised(self.gpu.call(name, *facts, context=context), name)

    def retain_context(self) -> int:
        self._call("cuDevicePrimaryCtxRetain", context=False)
        self.gpu.retained += 1
        return 1

    def release_context(self, context: int) -> None:
        assert context == 1
        self.gpu.retained -= 1

    def push_context(self, context: int) -> None:
        self._call("cuCtxPushCurrent", context=False)
        self.gpu.current += 1

    def pop_context(self) -> None:
        assert self.gpu.current
        self.gpu.current -= 1

    def create_stream(self) -> int:
        self._call("cuStreamCreate")
        return Stream(self.gpu).handle

    def synchronize(self, stream: int) -> None:
        self.gpu.streams[stream].synchronize()

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy")
        del self.gpu.streams[stream]

    def create_event(self) -> int:
        self._call("cuEventCreate")
        self.gpu.events.add(handle := self.gpu.address(1))
        return handle

    def record_event(self, event: int, stream: int, *, captured: bool) -> None:
        assert event in self.gpu.events
        assert captured == (self.gpu.streams[stream].capturing is not None), "no time can be read from this event"
        self._call("cuEventRecordWithFlags", captured)
        self.gpu.enqueue(stream, ("event", event), lambda: None)

    def elapsed_ms(self, start: int, end: int) -> float:
        self._call("cuEventElapsedTime")
        return (end - start) / PAGE

    def destroy_event(self, event: int) -> None:
        self._call("cuEventDestroy")
        self.gpu.events.remove(event)

    def allocate(self, num_bytes: int) -> int:
        self._call("cuMemAlloc", num_bytes)
        raised("out of memory" if num_bytes > self.gpu.free_bytes else None, "cuMemAlloc")
        address = self.gpu.address(num_bytes)
        self.gpu.blocks[address] = np.full(num_bytes, 0xA5, np.uint8)
        self.gpu.free_bytes -= num_bytes
        return address

    def clear(self, address: int, num_bytes: int) -> None:
        self._call("cuMemsetD8", num_bytes)
        self.gpu.view(address, np.uint8, (num_bytes,))[...] = 0

    def free(self, address: int) -> None:
        self._call("cuMemFree")
        self.gpu.free_bytes += len(self.gpu.blocks.pop(address))

    def free_bytes(self) -> int:
        return self.gpu.free_bytes

    def allocate_host(self, num_bytes: int) -> np.ndarray:
        self._call("cuMemHostAlloc", num_bytes)
        buffer = np.full(num_bytes, 0x5A, np.uint8)
        self.gpu.locked[buffer.ctypes.data] = num_bytes
        return buffer

    def free_host(self, buffer: np.ndarray) -> None:
        self._call("cuMemFreeHost")
        del self.gpu.locked[buffer.ctypes.data]

    def _require_locked(self, array: np.ndarray) -> None:
        at = array.ctypes.data
        inside = [start <= at and at + array.nbytes <= start + size for start, size in self.gpu.locked.items()]
        assert any(inside) and array.flags.c_contiguous, "memory that is not page-locked"

    def upload(self, address: int, array: np.ndarray, stream: int) -> None:
        self._require_locked(array)
        self._call("cuMemcpyHtoDAsync", array.nbytes)

        def work() -> None:
            self.gpu.view(address, array.dtype, array.shape)[...] = array

        self.gpu.enqueue(stream, ("upload", address, array.nbytes), work)

    def download(self, array: np.ndarray, address: int, stream: int) -> None:
        self._require_locked(array)
        self._call("cuMemcpyDtoHAsync", array.nbytes)

        def work() -> None:
            array[...] = self.gpu.view(address, array.dtype, array.shape)

        self.gpu.enqueue(stream, ("download", address, array.nbytes), work)

    def load_module(self, content: bytes) -> int:
        self._call("cuModuleLoadData", len(content))
        image = json.loads(content.rstrip(b"\0"))
        major, minor = self.gpu.capability
        if image["kind"] == "ptx":
            assert content.endswith(b"\0"), "PTX without an end"
            runs = image["arch"] <= 10 * major + minor
        else:
            runs = image["arch"] // 10 == major and image["arch"] % 10 <= minor
        raised(None if runs else "no kernel image is available for execution on the device", "cuModuleLoadData")
        self.gpu.modules[handle := self.gpu.address(1)] = image
        return handle

    def unload_module(self, module: int) -> None:
        self._call("cuModuleUnload")
        del self.gpu.modules[module]

    def find_function(self, module: int, name: str) -> int:
        self.gpu.functions[handle := self.gpu.address(1)] = Function(self.gpu, self.gpu.modules[module], name)
        return handle

    def allow_shared_bytes(self, function: int, num_bytes: int) -> None:
        self._call("cuFuncSetAttribute", num_bytes)
        self.gpu.functions[function].shared = num_bytes

    def launch(self, function: int, *, grid: Any, block: Any, shared_bytes: int, stream: int, arguments: Any) -> None:
        found = self.gpu.functions[function]
        assert shared_bytes <= found.shared, "more shared memory than was asked for"
        assert {type(argument) for argument in arguments} <= {np.uint64, np.int32}
        given = tuple(int(argument) for argument in arguments)
        facts = ("launch", found.entry, grid, block, given, shared_bytes)
        self._call("cuLaunchKernel", *facts[1:])
        self.gpu.enqueue(stream, facts, lambda: found.run(given))

    def graphs(self) -> "StandInGraphs":
        return StandInGraphs(self.gpu)


class StandInGraphs:
    """``udx.runtime.device.driver.Graphs``."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def _call(self, name: str) -> None:
        raised(self.gpu.call(name), name)

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture")
        assert not self.gpu.streams[stream].queue, "a capture of a stream that is at work"
        self.gpu.streams[stream].capturing = []

    def end_capture(self, stream: int) -> int:
        recorded, self.gpu.streams[stream].capturing = self.gpu.streams[stream].capturing, None
        assert recorded is not None
        self._call("cuStreamEndCapture")
        self.gpu.graphs[handle := self.gpu.address(1)] = recorded
        return handle

    def instantiate(self, graph: int) -> int:
        self._call("cuGraphInstantiate")
        self.gpu.graphs[handle := self.gpu.address(1)] = list(self.gpu.graphs[graph])
        return handle

    def upload(self, executable: int, stream: int) -> None:
        self._call("cuGraphUpload")

    def launch(self, executable: int, stream: int) -> None:
        self._call("cuGraphLaunch")
        for facts, work in self.gpu.graphs[executable]:
            self.gpu.enqueue(stream, facts, work)

    def destroy(self, graph: int) -> None:
        self._call("cuGraphDestroy")
        del self.gpu.graphs[graph]

    def destroy_executable(self, executable: int) -> None:
        self._call("cuGraphExecDestroy")
        del self.gpu.graphs[executable]


def tensorrt_module(gpu: Gpu, name: str) -> ModuleType:
    """What loads and runs engines, in TensorRT and in TensorRT-RTX."""
    trt = ModuleType(name)
    mode = IntEnum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
    severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
    layer_format = IntEnum("LayerInformationFormat", "ONELINE JSON", start=0)
    validity = IntEnum("EngineValidity", "VALID SUBOPTIMAL INVALID", start=0)
    diagnostics = IntEnum("EngineInvalidityDiagnostics", DIAGNOSTICS)
    strategy = IntEnum("ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED", start=0)

    class ILogger:
        Severity = severity

        def log(self, level: Any, message: str) -> None: ...

    class Context:
        def __init__(self, engine: "Engine") -> None:
            self.engine, self.scratch = engine, (0, 0)
            self.addresses: dict[str, int] = {}
            if name == "tensorrt_rtx_bindings":
                self.is_stream_capturable = lambda stream: stream in gpu.streams and gpu.capturable

        def set_device_memory(self, address: int, size: int) -> None:
            gpu.view(address, np.uint8, (size,))
            assert address % 256 == 0 and size >= self.engine.device_memory_size_v2
            self.scratch = address, size

        def set_tensor_address(self, tensor: str, address: int) -> bool:
            self.addresses[tensor] = address
            return address % 256 == 0

        def execute_async_v3(self, handle: int) -> bool:
            engine = self.engine
            assert set(self.addresses) == set(engine.specs) and self.scratch[1], "memory comes first"
            if failure := gpu.call("execute_async_v3"):
                engine.log.log(severity.ERROR, f"cudaLaunchKernel failed: {failure}")
                return False
            gpu.enqueue(handle, ("engine", tuple(self.addresses.values())), self.run)
            return True

        def run(self) -> None:
            views = {
                one: gpu.view(self.addresses[one], spec.dtype, spec.shape) for one, spec in self.engine.specs.items()
            }
            names = self.engine.names[mode.OUTPUT]
            given = {one: views[one].copy() for one in self.engine.names[mode.INPUT]}
            scratch, size = self.scratch
            gpu.view(scratch, np.uint8, (size,))[...] = 0xEE
            for one, found in zip(names, self.engine.session.run(names, given), strict=True):
                views[one][...] = found

    class Engine:
        def __init__(self, content: bytes, log: ILogger) -> None:
            model = onnx.load_from_string(content)
            values = {mode.INPUT: model.graph.input, mode.OUTPUT: model.graph.output}
            self.names = {key: [one.name for one in ones] for key, ones in values.items()}
            self.specs = {one.name: tensor_spec(one) for ones in values.values() for one in ones}
            self.session = open_session(content, "an engine", threads=1)
            self.log = log
            self.device_memory_size_v2 = 1000 * len(model.graph.node)
            self.num_io_tensors = len(self.specs)
            self.nodes = [node.op_type for node in model.graph.node]
            self.num_layers = len(self.nodes)

        def create_engine_inspector(self) -> "Inspector":
            return Inspector(self)

        def get_tensor_name(self, index: int) -> str:
            return list(self.specs)[index]

        def get_tensor_mode(self, tensor: str) -> Any:
            return mode.INPUT if tensor in self.names[mode.INPUT] else mode.OUTPUT

        def get_tensor_shape(self, tensor: str) -> tuple[int, ...]:
            return self.specs[tensor].shape

        def get_tensor_dtype(self, tensor: str) -> Any:
            return np.dtype(self.specs[tensor].dtype)

        def create_runtime_config(self) -> "RuntimeConfig":
            return RuntimeConfig()

        def create_execution_context(self, how: Any) -> Context | None:
            if isinstance(how, RuntimeConfig):
                how.cache.compile("+".join(self.nodes))
                how = how.strategy
            assert how is strategy.USER_MANAGED, "memory of its own would be allocated"
            return None if gpu.call("create_execution_context") else Context(self)

    class RuntimeCache:
        def __init__(self) -> None:
            self.held: list[str] = []

        def deserialize(self, content: bytes) -> bool:
            version, *held = content.decode().split("\n")
            if version != f"{trt.__version__} {gpu.capability}":
                return False
            self.held = held
            return True

        def serialize(self) -> memoryview:
            return memoryview("\n".join([f"{trt.__version__} {gpu.capability}", *self.held]).encode())

        def compile(self, what: str) -> None:
            if what not in self.held:
                gpu.compiled.append(what)
                self.held.append(what)

    class RuntimeConfig:
        def __init__(self) -> None:
            self.strategy, self.cache = strategy.STATIC, None

        def set_execution_context_allocation_strategy(self, how: Any) -> None:
            self.strategy = how

        def create_runtime_cache(self) -> RuntimeCache:
            return RuntimeCache()

        def set_runtime_cache(self, cache: RuntimeCache) -> bool:
            self.cache = cache
            return True

    class Inspector:
        def __init__(self, engine: Engine) -> None:
            self.engine, self.execution_context = engine, None

        def get_layer_information(self, index: int, how: Any) -> str:
            assert how is layer_format.ONELINE and self.execution_context.engine is self.engine
            return f"{self.engine.nodes[index]},  Tactic: 0x{index:016x}\n"

    class Runtime:
        def __init__(self, log: ILogger) -> None:
            self.log = log
            if gpu.call("createInferRuntime"):
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def get_engine_validity(self, content: bytes) -> tuple[Any, int]:
            word, found = gpu.validity
            if failure := gpu.call("get_engine_validity"):
                self.log.log(severity.INTERNAL_ERROR, f"Error reading CUDA GPU properties: {failure}")
                return validity.INVALID, 0
            return validity[word], found

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            if failure := gpu.call("deserialize_cuda_engine"):
                self.log.log(severity.ERROR, f"Error Code 1: {failure}")
                return None
            return Engine(content, self.log)

    class Config:
        num_compute_capabilities = 0

        def set_compute_capability(self, capability: int, index: int) -> bool:
            assert index < self.num_compute_capabilities
            return capability in gpu.supported

    class Builder:
        def __init__(self, log: ILogger) -> None: ...  # needs no GPU

        def create_builder_config(self) -> Config:
            return Config()

    if name == "tensorrt_rtx_bindings":
        trt.EngineValidity, trt.EngineInvalidityDiagnostics = validity, diagnostics
        trt.ComputeCapability, trt.Builder = int, Builder
    else:
        del Engine.create_runtime_config, Runtime.get_engine_validity
    trt.__version__ = gpu.versions[name]
    trt.ILogger, trt.Runtime, trt.TensorIOMode = ILogger, Runtime, mode
    trt.ExecutionContextAllocationStrategy = strategy
    trt.LayerInformationFormat = layer_format
    return trt


def install(monkeypatch: Any, gpu: Gpu) -> None:
    """Let this process find the GPU and its libraries until the test ends."""
    for name in gpu.versions:
        monkeypatch.setitem(sys.modules, name, tensorrt_module(gpu, name))
    device = CudaDevice(
        name="Some GPU", compute_capability=gpu.capability, multiprocessors=58, memory_bytes=16 << 30, uuid="GPU-0"
    )
    monkeypatch.setattr(
        "udx.runtime.device.runner.cuda_driver", lambda: CudaDriver(cuda_version=(13, 0), devices=(device,))
    )
    monkeypatch.setattr("udx.runtime.device.driver._open_bindings", lambda: StandInDriver(gpu))
