"""A GPU where there is none: what the device layer uses of pycuda, cuda-bindings and TensorRT's runtime.

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
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx

from udx.runtime.cuda_driver import CudaDevice, CudaDriver
from udx.runtime.numpy_kernels import run_kernel
from udx.runtime.onnxruntime_runner import open_session
from udx.runtime.partitioned import PartitionedPlan
from udx.tensors import tensor_spec

PAGE = 4096
Operation = tuple[tuple[Any, ...], Callable[[], None]]
"""What is recorded of an operation, and the operation."""

NAMES = {"out of memory": "MemoryError", "unspecified launch failure": "LaunchError"}


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
    refuses: set[str] = field(default_factory=set)
    blocks: dict[int, np.ndarray] = field(default_factory=dict)
    locked: set[int] = field(default_factory=set)
    events: set[int] = field(default_factory=set)
    graphs: dict[int, list[Operation]] = field(default_factory=dict)
    streams: dict[int, "Stream"] = field(default_factory=dict)
    default: list[Callable[[], object]] = field(default_factory=list)
    done: list[tuple[Any, ...]] = field(default_factory=list)
    current: int = 0
    retained: int = 0
    last: int = 0x7F0000000000

    @property
    def leaks(self) -> dict[str, int]:
        """What was taken and not given back."""
        held = {"blocks": self.blocks, "locked": self.locked, "events": self.events, "graphs": self.graphs}
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
        self.last += -(-size // PAGE) * PAGE + PAGE
        return self.last

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
    def __init__(self, gpu: Gpu, flags: int) -> None:
        assert flags == 1, "work of others on the default stream must not wait for this one"
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


def _error(name: str, *bases: type) -> type:
    return type(name, bases or (Exception,), {"__module__": "pycuda._driver"})


Error = _error("Error")
ERRORS = {name: _error(name, Error) for name in ("MemoryError", "LaunchError", "LogicError", "RuntimeError")}


def raised(failure: str | None, call: str) -> None:
    """Fail as pycuda does."""
    if failure:
        raise ERRORS[NAMES.get(failure, "LogicError")](f"{call} failed: {failure}")


class PageLocked:
    """What the base of a page-locked array is."""

    def __init__(self, gpu: Gpu, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.gpu, self.memory = gpu, np.full(shape, 0x5A, dtype)
        self.__array_interface__ = self.memory.__array_interface__
        gpu.locked.add(id(self))

    def free(self) -> None:
        raised(self.gpu.call("cuMemFreeHost"), "cuMemFreeHost")
        self.gpu.locked.remove(id(self))


class Block(int):
    """What pycuda returns of an allocation: an address that can be freed."""

    gpu: Gpu

    def free(self) -> None:
        raised(self.gpu.call("cuMemFree"), "cuMemFree")
        self.gpu.free_bytes += len(self.gpu.blocks.pop(int(self)))


class Function:
    def __init__(self, gpu: Gpu, image: dict[str, Any], entry: str) -> None:
        self.gpu, self.image, self.entry = gpu, image, entry
        self.format: str | None = None
        self.shared = 48 * 2**10

    def prepare(self, arguments: str) -> None:
        self.format = arguments

    def set_attribute(self, attribute: str, value: int) -> None:
        raised(self.gpu.call("cuFuncSetAttribute", attribute, value), "cuFuncSetAttribute")
        self.shared = value

    def prepared_async_call(self, grid: Any, block: Any, stream: Stream, *arguments: int, shared_size: int) -> None:
        assert self.format is not None and len(self.format) == len(arguments)
        assert shared_size <= self.shared, "more shared memory than was asked for"
        facts = ("launch", self.entry, grid, block, arguments, shared_size)
        raised(self.gpu.call("cuLaunchKernel", *facts[1:]), "cuLaunchKernel")
        self.gpu.enqueue(stream.handle, facts, lambda: self.run(arguments))

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


def driver_module(gpu: Gpu) -> ModuleType:
    """``pycuda.driver``."""
    driver = ModuleType("pycuda.driver")

    class Context:
        detached = False

        def push(self) -> None:
            raised(gpu.call("cuCtxPushCurrent", context=False), "cuCtxPushCurrent")
            gpu.current += 1

        def detach(self) -> None:
            assert not self.detached
            self.detached = True
            gpu.retained -= 1

        @staticmethod
        def synchronize() -> None:
            raised(gpu.call("cuCtxSynchronize"), "cuCtxSynchronize")
            while gpu.default:
                gpu.default.pop(0)()

        @staticmethod
        def pop() -> None:
            assert gpu.current
            gpu.current -= 1

    def retain(self: Any) -> Context:
        raised(gpu.call("cuDevicePrimaryCtxRetain", context=False), "cuDevicePrimaryCtxRetain")
        gpu.retained += 1
        return Context()

    def mem_alloc(size: int) -> Block:
        raised(gpu.call("cuMemAlloc", size), "cuMemAlloc")
        raised("out of memory" if size > gpu.free_bytes else None, "cuMemAlloc")
        block = Block(gpu.address(size))
        block.gpu = gpu
        gpu.blocks[int(block)] = np.full(size, 0xA5, np.uint8)
        gpu.free_bytes -= size
        return block

    def memset_d8(address: int, value: int, size: int) -> None:
        raised(gpu.call("cuMemsetD8", size), "cuMemsetD8")
        block = gpu.view(address, np.uint8, (size,))
        gpu.default.append(lambda: block.fill(value))  # no stream of udx's waits for the default one

    def pagelocked_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        raised(gpu.call("cuMemHostAlloc", shape), "cuMemHostAlloc")
        return np.asarray(PageLocked(gpu, shape, dtype))

    def require_locked(array: np.ndarray) -> None:
        assert isinstance(array.base, PageLocked) and id(array.base) in gpu.locked, "memory that is not page-locked"

    def memcpy_htod_async(address: int, array: np.ndarray, stream: Stream) -> None:
        require_locked(array)
        raised(gpu.call("cuMemcpyHtoDAsync", array.nbytes), "cuMemcpyHtoDAsync")

        def work() -> None:
            gpu.view(address, array.dtype, array.shape)[...] = array

        gpu.enqueue(stream.handle, ("upload", address, array.nbytes), work)

    def memcpy_dtoh_async(array: np.ndarray, address: int, stream: Stream) -> None:
        require_locked(array)
        raised(gpu.call("cuMemcpyDtoHAsync", array.nbytes), "cuMemcpyDtoHAsync")

        def work() -> None:
            array[...] = gpu.view(address, array.dtype, array.shape)

        gpu.enqueue(stream.handle, ("download", address, array.nbytes), work)

    def module_from_buffer(content: bytes) -> Any:
        failure = gpu.call("cuModuleLoadDataEx", len(content))
        image = json.loads(content.rstrip(b"\0"))
        major, minor = gpu.capability
        if image["kind"] == "ptx":
            assert content.endswith(b"\0"), "PTX without an end"
            runs = image["arch"] <= 10 * major + minor
        else:
            runs = image["arch"] // 10 == major and image["arch"] % 10 <= minor
        raised(failure, "cuModuleLoadDataEx")
        raised(None if runs else "no kernel image is available for execution on the device", "cuModuleLoadDataEx")
        return SimpleNamespace(get_function=lambda entry: Function(gpu, image, entry))

    def init() -> None:
        raised(gpu.call("cuInit", context=False), "cuInit")

    def stream(flags: int = 0) -> Stream:
        raised(gpu.call("cuStreamCreate", flags), "cuStreamCreate")
        return Stream(gpu, flags)

    for name, value in {
        "init": init,
        "Device": type("Device", (), {"__init__": lambda self, index: None, "retain_primary_context": retain}),
        "Context": Context,
        "Stream": stream,
        "mem_alloc": mem_alloc,
        "mem_get_info": lambda: (gpu.free_bytes, 1 << 30),
        "memset_d8": memset_d8,
        "pagelocked_empty": pagelocked_empty,
        "memcpy_htod_async": memcpy_htod_async,
        "memcpy_dtoh_async": memcpy_dtoh_async,
        "module_from_buffer": module_from_buffer,
        "function_attribute": SimpleNamespace(MAX_DYNAMIC_SHARED_SIZE_BYTES="max_dynamic_shared_size_bytes"),
        "Error": Error,
        **ERRORS,
    }.items():
        setattr(driver, name, value)
    return driver


class CUstream(int):
    """A stream of the bindings: the very handle of pycuda's."""


def bindings_module(gpu: Gpu) -> ModuleType:
    """``cuda.bindings.driver``: every function returns its status first."""
    bindings = ModuleType("cuda.bindings.driver")
    status = IntEnum("CUresult", {"CUDA_SUCCESS": 0, "CUDA_ERROR_UNKNOWN": 999})
    said = ["unknown error"]

    def answered(name: str, *facts: Any) -> IntEnum:
        failure = gpu.call(name, *facts)
        said[0] = failure or said[0]
        return status.CUDA_ERROR_UNKNOWN if failure else status.CUDA_SUCCESS

    def begin(stream: CUstream, mode: IntEnum) -> tuple[Any]:
        assert isinstance(stream, CUstream) and mode == 1
        answer = answered("cuStreamBeginCapture")
        if not answer:
            assert not gpu.streams[stream].queue, "a capture of a stream that is at work"
            gpu.streams[stream].capturing = []
        return (answer,)

    def end(stream: CUstream) -> tuple[Any, int | None]:
        recorded, gpu.streams[stream].capturing = gpu.streams[stream].capturing, None
        assert recorded is not None
        answer = answered("cuStreamEndCapture")
        if answer:
            return answer, None
        handle = gpu.address(1)
        gpu.graphs[handle] = recorded
        return answer, handle

    def instantiate(graph: int, flags: int) -> tuple[Any, int | None]:
        answer = answered("cuGraphInstantiate", flags)
        if answer:
            return answer, None
        handle = gpu.address(1)
        gpu.graphs[handle] = list(gpu.graphs[graph])
        return answer, handle

    def destroy(name: str) -> Callable[[int], tuple[Any]]:
        def destroyed(handle: int) -> tuple[Any]:
            answer = answered(name)
            if not answer:
                del gpu.graphs[handle]
            return (answer,)

        return destroyed

    def launch(graph: int, stream: CUstream) -> tuple[Any]:
        answer = answered("cuGraphLaunch")
        if not answer:
            for facts, work in gpu.graphs[graph]:
                gpu.enqueue(stream, facts, work)
        return (answer,)

    def create_event(flags: int) -> tuple[Any, int | None]:
        answer = answered("cuEventCreate", flags)
        if answer:
            return answer, None
        gpu.events.add(handle := gpu.address(1))
        return answer, handle

    def destroy_event(event: int) -> tuple[Any]:
        answer = answered("cuEventDestroy")
        if not answer:
            gpu.events.remove(event)
        return (answer,)

    def record(event: int, stream: CUstream, flags: int) -> tuple[Any]:
        assert event in gpu.events
        assert flags == (gpu.streams[stream].capturing is not None), "no time can be read from this event"
        answer = answered("cuEventRecordWithFlags", flags)
        if not answer:
            gpu.enqueue(stream, ("event", event), lambda: None)
        return (answer,)

    def elapsed(start: int, end: int) -> tuple[Any, float]:
        return answered("cuEventElapsedTime"), (end - start) / PAGE

    for name, value in {
        "CUstream": CUstream,
        "CUstreamCaptureMode": IntEnum("Mode", {"CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": 1}),
        "CUevent_flags": IntEnum("Flags", {"CU_EVENT_DEFAULT": 0}),
        "CUevent_record_flags": IntEnum("Record", {"CU_EVENT_RECORD_DEFAULT": 0, "CU_EVENT_RECORD_EXTERNAL": 1}),
        "cuGetErrorString": lambda error: (0, said[0].encode()),
        "cuStreamBeginCapture": begin,
        "cuStreamEndCapture": end,
        "cuGraphInstantiate": instantiate,
        "cuGraphUpload": lambda graph, stream: (answered("cuGraphUpload"),),
        "cuGraphLaunch": launch,
        "cuGraphDestroy": destroy("cuGraphDestroy"),
        "cuGraphExecDestroy": destroy("cuGraphExecDestroy"),
        "cuEventCreate": create_event,
        "cuEventDestroy": destroy_event,
        "cuEventRecordWithFlags": record,
        "cuEventElapsedTime": elapsed,
    }.items():
        setattr(bindings, name, value)
    return bindings


def tensorrt_module(gpu: Gpu, name: str) -> ModuleType:
    """What loads and runs engines, in TensorRT and in TensorRT-RTX."""
    trt = ModuleType(name)
    mode = IntEnum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
    severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
    layer_format = IntEnum("LayerInformationFormat", "ONELINE JSON", start=0)
    strategy = IntEnum("ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED", start=0)

    class ILogger:
        Severity = severity

        def log(self, level: Any, message: str) -> None: ...

    class Context:
        def __init__(self, engine: "Engine") -> None:
            self.engine, self.scratch = engine, (0, 0)
            self.addresses: dict[str, int] = {}

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

        def create_execution_context(self, how: Any) -> Context | None:
            assert how is strategy.USER_MANAGED, "memory of its own would be allocated"
            return None if gpu.call("create_execution_context") else Context(self)

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

        def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
            if failure := gpu.call("deserialize_cuda_engine"):
                self.log.log(severity.ERROR, f"Error Code 1: {failure}")
                return None
            return Engine(content, self.log)

    trt.__version__ = gpu.versions[name]
    trt.ILogger, trt.Runtime, trt.TensorIOMode = ILogger, Runtime, mode
    trt.ExecutionContextAllocationStrategy = strategy
    trt.LayerInformationFormat = layer_format
    return trt


def install(monkeypatch: Any, gpu: Gpu) -> None:
    """Let this process find the GPU and its libraries until the test ends."""
    driver, bindings = driver_module(gpu), bindings_module(gpu)
    pycuda, cuda, package = ModuleType("pycuda"), ModuleType("cuda"), ModuleType("cuda.bindings")
    pycuda.driver, package.driver, cuda.bindings = driver, bindings, package
    modules = {"pycuda": pycuda, "pycuda.driver": driver}
    modules |= {"cuda": cuda, "cuda.bindings": package, "cuda.bindings.driver": bindings}
    modules |= {name: tensorrt_module(gpu, name) for name in gpu.versions}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    device = CudaDevice(
        name="Some GPU", compute_capability=gpu.capability, multiprocessors=58, memory_bytes=16 << 30, uuid="GPU-0"
    )
    monkeypatch.setattr(
        "udx.runtime.device.runner.cuda_driver", lambda: CudaDriver(cuda_version=(13, 0), devices=(device,))
    )
