"""TensorRT's builder and its runtime, as far as a build needs them; TensorRT-RTX answers to the same calls.

With TensorRT a stand-in is tested, with TensorRT-RTX all but the description of the engine
(``docs/hardware-status.md``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from udx.build.network import logger, parse
from udx.build.watch import Watch, monitor
from udx.errors import UdxError, first_line
from udx.files import write_with
from udx.tensors import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorrtSettings:
    """What the builder is asked for.

    ``level`` is TensorRT's optimisation level, 0 to 5: how long it searches for the fastest kernels. ``tf32`` lets FP32
    convolutions and matrix products round their inputs to 10 bits of mantissa. ``workspace_gib`` bounds the memory
    that a layer may use for itself; None is all of the GPU's.
    """

    level: int = 3
    tf32: bool = True
    workspace_gib: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 5:
            raise UdxError(f"there is no optimisation level {self.level}; choose one from 0 to 5")
        if self.workspace_gib is not None and not self.workspace_gib > 0:
            raise UdxError(f"a workspace of {self.workspace_gib:g} GiB holds nothing; give more, or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What a serialized engine says of itself; memory is what it needs while it runs, weights not counted."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: int
    device_memory_bytes: int


def serialized_engine(
    trt: ModuleType,
    model: bytes,
    path: Path,
    *,
    settings: TensorrtSettings,
    watch: Watch,
    check: Callable[[Any], None],
    configure: Callable[[Any], None] | None = None,
    timings: Path | None = None,
) -> bytes:
    """Parse a model and build its engine; ``check`` sees the network in between, ``configure`` the configuration.

    What was measured is added to the file ``timings``, of a cancelled build too. ``path`` names the model.

    Raises:
        UdxError: the library cannot start, or refuses the model, or the build failed or was cancelled.
    """
    log, messages = logger(trt)
    messages.clear()
    builder = _started(trt, trt.Builder, log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(trt, network, model, path)
    check(network)
    config = configure_builder(trt, builder, settings)
    if configure is not None:
        configure(config)
    progress = monitor(trt, watch)  # the configuration does not keep it alive on every version
    config.progress_monitor = progress
    cache = _Timings(config, timings) if timings is not None else None
    try:
        plan = None if watch.cancelled else builder.build_serialized_network(network, config)
    finally:
        if cache is not None:
            cache.save(messages.warnings)
    if plan is None:
        reason = "it was cancelled" if watch.cancelled else "; ".join(messages.errors[:3]) or "it gives no reason"
        raise UdxError(f"{trt.__name__} {trt.__version__} built no engine of {path}: {reason}")
    return bytes(memoryview(plan))


def engine_facts(trt: ModuleType, plan: bytes, path: Path) -> EngineFacts:
    """Load an engine on this machine's GPU and describe it.

    Raises:
        UdxError: it cannot be loaded.
    """
    log, messages = logger(trt)
    engine = _started(trt, trt.Runtime, log).deserialize_cuda_engine(plan)
    if engine is None:
        reason = "; ".join(messages.errors[-3:]) or "it gives no reason"
        raise UdxError(f"{trt.__name__} {trt.__version__} cannot load the engine that it built of {path}: {reason}")
    specs: dict[Any, list[TensorSpec]] = {trt.TensorIOMode.INPUT: [], trt.TensorIOMode.OUTPUT: []}
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
        specs[engine.get_tensor_mode(name)].append(TensorSpec(name, tuple(engine.get_tensor_shape(name)), dtype))
    return EngineFacts(
        inputs=tuple(specs[trt.TensorIOMode.INPUT]),
        outputs=tuple(specs[trt.TensorIOMode.OUTPUT]),
        layers=engine.num_layers,
        device_memory_bytes=engine.device_memory_size_v2,
    )


def _started(trt: ModuleType, kind: Callable[[Any], Any], log: Any) -> Any:
    try:
        return kind(log)
    except TypeError as error:  # how the bindings say that the library returned nothing
        reason = "; ".join(logger(trt)[1].errors[-3:]) or "it gives no reason"
        raise UdxError(f"{trt.__name__} {trt.__version__} cannot start: {reason}; run udx doctor") from error


def configure_builder(trt: ModuleType, builder: Any, settings: TensorrtSettings) -> Any:
    """Create the builder's configuration, ``IBuilderConfig``, that the settings ask for."""
    config = builder.create_builder_config()
    config.builder_optimization_level = settings.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layers and tactics can be compared between plans
    # Plugins that write into the memory of an input: see udx.ops.tensorrt_plugins.
    config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    (config.set_flag if settings.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if settings.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(settings.workspace_gib * 2**30))
    return config


class _Timings:
    """The timing cache of a configuration, and the file that it comes from and goes to."""

    def __init__(self, config: Any, path: Path) -> None:
        self._path = path
        stored = path.read_bytes() if path.is_file() else b""
        self._cache = config.create_timing_cache(stored)
        if self._cache is None or not config.set_timing_cache(self._cache, False):  # of another version or GPU
            self._cache = config.create_timing_cache(b"")
            config.set_timing_cache(self._cache, False)

    def save(self, warnings: list[str]) -> None:
        """Write it back.

        What fails here is a warning, because the engine is worth more, and the reason of a failed build, too.
        """
        try:
            content = bytes(memoryview(self._cache.serialize()))
        except Exception as error:  # None, or whatever the bindings raise
            warnings.append(f"the timing cache was not kept: TensorRT cannot serialize it ({first_line(error)})")
            return
        try:
            write_with(self._path, lambda partial: partial.write_bytes(content))
        except UdxError as error:
            warnings.append(f"the timing cache was not kept: {error}")
