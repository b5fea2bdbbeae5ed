"""Engines of TensorRT and TensorRT-RTX on the GPU: loaded, bound to the plan's memory, enqueued."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

from udx.errors import UdxError
from udx.runtime.arena import ITEM_BYTES, PlacedTensor
from udx.runtime.cuda_driver import CudaDevice
from udx.runtime.device.driver import Handle
from udx.runtime.device.errors import remedy
from udx.runtime.device.runtime_cache import RuntimeCache, cache_path
from udx.runtime.engine_log import Messages, logger
from udx.runtime.partitioned import SegmentStep
from udx.runtime.rtx import MODULE, require_valid

Library = Literal["tensorrt", "tensorrt-rtx"]
MODULES: Final[Mapping[Library, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": MODULE}
INSTALL: Final[Mapping[Library, str]] = {"tensorrt": "pip install tensorrt", "tensorrt-rtx": "pip install 'udx[rtx]'"}


def load_library(name: Library) -> ModuleType:
    """Import what runs the engines.

    Raises:
        UdxError: it is not installed.
    """
    try:
        return import_module(MODULES[name])
    except ImportError as error:
        raise UdxError(f"{name} is not installed ({error}); {INSTALL[name]}") from error


@dataclass(frozen=True, eq=False, slots=True)
class LoadedEngine:
    """An engine, its context, and the step that it does; ``bind`` comes before ``enqueue``.

    ``runtime`` is held because it must outlive the engine. ``validity`` is the library's word: ``valid``, or
    ``suboptimal``. ``runtime_cache`` keeps what TensorRT-RTX compiles when the engine is started.
    """

    step: SegmentStep
    source: str
    runtime: Any
    engine: Any
    context: Any
    messages: Messages
    validity: str = "valid"
    runtime_cache: RuntimeCache | None = None

    @property
    def scratch_bytes(self) -> int:
        """Memory that it needs while it runs, weights not counted."""
        return int(self.engine.device_memory_size_v2)

    def bind(self, addresses: Mapping[str, int], scratch: int, scratch_bytes: int) -> None:
        """Fix the addresses of its inputs, its outputs and its scratch memory.

        Raises:
            UdxError: the library refuses one.
        """
        if scratch_bytes:
            self.context.set_device_memory(scratch, scratch_bytes)
        for name in (*self.step.inputs, *self.step.outputs):
            if not self.context.set_tensor_address(name, addresses[name]):
                raise self._error(f"takes no memory for {name}")

    def enqueue(self, stream: Handle) -> None:
        """Run it on a stream.

        Raises:
            UdxError: the library refuses.
        """
        self.messages.clear()
        if not self.context.execute_async_v3(stream):
            raise self._error("does not run")

    def require_capturable(self, stream: Handle) -> None:
        """Ask the library whether a stream that the engine runs on can be captured.

        Raises:
            UdxError: it says no. TensorRT is not asked: it has no such question.
        """
        asked = getattr(self.context, "is_stream_capturable", None)
        if asked is not None and not asked(stream):
            raise UdxError(f"TensorRT-RTX says that {self.step.name} cannot be captured")

    def save_runtime_cache(self) -> None:
        """Keep what was compiled for the next start.

        Raises:
            UdxError: the folder for caches cannot be written.
        """
        if self.runtime_cache is not None:
            self.runtime_cache.save()

    def layers(self, trt: ModuleType) -> list[str]:
        """A line per layer with its tactic, as the library's inspector tells them; ``trt`` is the library."""
        inspector = self.engine.create_engine_inspector()
        inspector.execution_context = self.context
        told = (
            inspector.get_layer_information(index, trt.LayerInformationFormat.ONELINE)
            for index in range(self.engine.num_layers)
        )
        return [" ".join(layer.split()) for layer in told]

    def _error(self, what: str) -> UdxError:
        said = "; ".join(self.messages.errors[-2:]) or "it gives no reason"
        return UdxError(f"{self.step.name} of {self.source} {what} ({said}); {remedy(said)}")


class EngineLoader:
    """A library's runtime; engines are of the very version that built them."""

    def __init__(self, trt: ModuleType, library: Library, gpu: CudaDevice) -> None:
        self._trt = trt
        self._is_rtx = library == "tensorrt-rtx"
        self._gpu = gpu
        log, self._messages = logger(trt)
        self._messages.clear()
        try:
            self._runtime = trt.Runtime(log)
        except TypeError as error:  # how the bindings say that the library returned nothing
            said = "; ".join(self._messages.errors[-2:]) or "it gives no reason"
            raise UdxError(f"{trt.__name__} {trt.__version__} cannot start ({said}); see udx doctor") from error

    def load(self, step: SegmentStep, content: bytes, source: str, tensors: Mapping[str, PlacedTensor]) -> LoadedEngine:
        """Load an engine, which must have just the step's inputs and outputs, without memory of its own.

        Raises:
            UdxError: the library refuses it, or it is not what the plan says.
        """
        validity = "valid"
        if self._is_rtx:
            validity = require_valid(self._trt, self._runtime, content, f"{step.name} of {source}")
        self._messages.clear()
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise self._refused(step, source, "cannot be loaded")
        self._require_same(step, engine, source, tensors)
        how, cache = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED, None
        if self._is_rtx:
            how, cache = self._with_cache(engine, how, cache_path(self._trt.__version__, self._gpu, step.sha256))
        context = engine.create_execution_context(how)
        if context is None:
            raise self._refused(step, source, "cannot be started")
        return LoadedEngine(
            step, source, self._runtime, engine, context, self._messages, validity=validity, runtime_cache=cache
        )

    def _with_cache(self, engine: Any, strategy: Any, path: Path) -> tuple[Any, RuntimeCache]:
        """How to make a context that takes from a runtime cache what was compiled before, and compiles into it."""
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        found = config.create_runtime_cache()
        cache = RuntimeCache(found, path)
        config.set_runtime_cache(found)
        return config, cache

    def _refused(self, step: SegmentStep, source: str, what: str) -> UdxError:
        said = "; ".join(self._messages.errors[-2:]) or "it gives no reason"
        advice = "build the plan again on this machine" if remedy(said) == remedy("") else remedy(said)
        return UdxError(
            f"{step.name} of {source} {what} by {self._trt.__name__} {self._trt.__version__} ({said}); {advice}"
        )

    def _require_same(self, step: SegmentStep, engine: Any, source: str, tensors: Mapping[str, PlacedTensor]) -> None:
        """An engine that read or wrote more than the plan says would do so in other tensors' memory."""
        mode = self._trt.TensorIOMode
        wanted = {(name, mode.INPUT, *_facts(tensors[name])) for name in step.inputs}
        wanted |= {(name, mode.OUTPUT, *_facts(tensors[name])) for name in step.outputs}
        found = {
            (
                name,
                engine.get_tensor_mode(name),
                tuple(engine.get_tensor_shape(name)),
                int(engine.get_tensor_dtype(name).itemsize),
            )
            for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors))
        }
        if odd := sorted(str(fact[0]) for fact in wanted ^ found):
            raise UdxError(f"{step.name} of {source} and its plan do not agree on {odd[0]}; build the plan again")


def _facts(tensor: PlacedTensor) -> tuple[tuple[int, ...], int]:
    return tensor.shape, ITEM_BYTES[tensor.dtype]
