"""A plan ready to run on a GPU: everything is taken when it is made, and a frame takes nothing more."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from udx.data.inputs import CALIBRATION, COUNTED
from udx.errors import UdxError
from udx.runtime.cuda_driver import CudaDevice
from udx.runtime.device.cuda import Device
from udx.runtime.device.driver import Handle
from udx.runtime.device.engines import EngineLoader, LoadedEngine, load_library
from udx.runtime.device.errors import CallError, explained, one_line
from udx.runtime.device.graph import FrameGraph, StageClock
from udx.runtime.device.kernels import LoadedKernel, load_kernel
from udx.runtime.device.memory import Memory
from udx.runtime.device.program import Program
from udx.runtime.partitioned import KernelStep, SegmentStep

STAGES: Final = ("upload", "network", "download")


class _Enqueueable(Protocol):
    def enqueue(self, stream: Handle) -> None: ...

    def layers(self, library: ModuleType) -> list[str]: ...


class DeviceFrame:
    """A plan on its GPU. The context must be current when it is made, run and closed.

    A frame is: copy into page-locked buffers; upload a calibration if there is a new one; upload the rows of the point
    buffer that are filled; launch one CUDA graph that uploads the other sensor data, runs every engine and kernel, and
    downloads the boxes; wait for its end. Nothing is allocated, and the host waits once.

    Where the driver or an engine cannot be captured, the same steps are enqueued one by one; ``graph`` says why.

    Raises:
        UdxError: a library refuses the plan, or the GPU has not the memory; everything taken is then given back.
    """

    def __init__(self, device: Device, program: Program, gpu: CudaDevice) -> None:
        self.library = program.library
        self._driver = device.driver
        self._memory = Memory(device.driver)
        self._steps: list[_Enqueueable] = []
        self._engines: list[LoadedEngine] = []
        self._stream: Handle | None = None
        try:
            with explained(f"{program.path} cannot be made ready on the GPU"):
                self._make_ready(device, program, gpu)
        except BaseException:
            self.close()
            raise

    def _make_ready(self, device: Device, program: Program, gpu: CudaDevice) -> None:
        stream = self._stream = self._driver.create_stream()
        self._memory.on_close(lambda: self._driver.destroy_stream(stream))
        self._clock = StageClock(self._driver, stream, STAGES, self._memory)
        arena = self._memory.on_device(program.arena_bytes, "tensors")
        self._addresses = {name: arena + tensor.offset for name, tensor in program.tensors.items()}
        self._hosts = {
            name: self._memory.on_host(program.tensors[name].spec) for name in (*program.inputs, *program.outputs)
        }
        self._sensors = tuple(name for name in program.inputs if name not in {*CALIBRATION, *COUNTED})
        self._counted = {name: count for name, count in COUNTED.items() if name in program.inputs}
        self._rows = dict.fromkeys(self._counted, 0)
        self._outputs = program.outputs
        self._resident: dict[str, NDArray[Any]] = {}
        self._load_steps(program, gpu)
        # Once without a graph: engines do their last preparations when they first run.
        self._clock.record(0, captured=False)
        self._enqueue(stream, captured=False)
        self._driver.synchronize(stream)
        self.runtime_cache = self._saved_runtime_caches()
        self._launch, self.graph = self._captured(stream)

    def _load_steps(self, program: Program, gpu: CudaDevice) -> None:
        loader = EngineLoader(load_library(program.library), program.library, gpu)
        engines = self._engines
        for step in program.steps:
            match step:
                case SegmentStep():
                    engine = loader.load(step, program.engines[step.file], str(program.path), program.tensors)
                    engines.append(engine)
                    self._steps.append(engine)
                case KernelStep():
                    self._steps.append(self._kernel(program, gpu, step))
        # Engines run one after the other, so one block serves them all.
        self.scratch_bytes = max((engine.scratch_bytes for engine in engines), default=0)
        scratch = self._memory.on_device(self.scratch_bytes, "the engines") if self.scratch_bytes else 0
        for engine in engines:
            engine.bind(self._addresses, scratch, self.scratch_bytes)
        self._memory.on_close(self._release_engines)  # before the memory that they use

    def layers(self, library: ModuleType) -> list[str]:
        """What runs, in order: each engine's layers, and the kernels between them."""
        return [line for step in self._steps for line in step.layers(library)]

    def _kernel(self, program: Program, gpu: CudaDevice, step: KernelStep) -> LoadedKernel:
        assert program.kernels is not None
        inputs, outputs = ([self._addresses[name] for name in names] for names in (step.inputs, step.outputs))
        return load_kernel(
            self._driver,
            program.kernels,
            step.launch,
            gpu.arch,
            image=program.image,
            shapes=step.shapes(program.tensors),
            inputs=inputs,
            outputs=outputs,
            memory=self._memory,
        )

    def _captured(self, stream: Handle) -> tuple[Callable[[], None], str]:
        """How a frame is launched, and whether that is a graph."""
        try:
            for engine in self._engines:
                engine.require_capturable(stream)
            graph = FrameGraph(self._driver, stream, lambda: self._enqueue(stream, captured=True), self._memory)
        except (CallError, UdxError) as error:
            return lambda: self._enqueue(stream, captured=False), f"no: {one_line(error)}"
        return graph.launch, "yes"

    def _saved_runtime_caches(self) -> str | None:
        """What is said of the runtime caches: whether they were found on disk, or why they are not kept."""
        caches = [engine.runtime_cache for engine in self._engines if engine.runtime_cache is not None]
        if not caches:
            return None
        try:
            for engine in self._engines:
                engine.save_runtime_cache()
        except UdxError as error:
            return f"not kept: {one_line(error)}"
        return "found" if all(cache.found for cache in caches) else "compiled"

    @property
    def validity(self) -> str:
        """The library's word on the engines: ``valid``, or ``suboptimal`` if one would be faster if built here."""
        return max((engine.validity for engine in self._engines), default="valid", key=lambda word: word != "valid")

    def _release_engines(self) -> None:
        self._steps.clear()
        self._engines.clear()

    def _enqueue(self, stream: Handle, *, captured: bool) -> None:
        """Everything that a frame does on the GPU but what depends on the frame: see ``run``."""
        for name in self._sensors:
            self._driver.upload(self._addresses[name], self._hosts[name], stream)
        self._clock.record(1, captured=captured)
        for step in self._steps:
            step.enqueue(stream)
        self._clock.record(2, captured=captured)
        for name in self._outputs:
            self._driver.download(self._hosts[name], self._addresses[name], stream)
        self._clock.record(3, captured=captured)

    def run(
        self, tensors: Mapping[str, NDArray[Any]], is_held: Callable[[str, NDArray[Any]], bool]
    ) -> dict[str, NDArray[Any]]:
        """Run one frame; a calibration that ``is_held``, and is there already, is not uploaded again.

        Raises:
            CallError: a call of the driver failed.
            UdxError: an engine refuses to run.
        """
        stream = self._stream
        assert stream is not None, "the frame is closed"
        try:
            for name in self._sensors:
                np.copyto(self._hosts[name], tensors[name])
            for name in CALIBRATION:
                if name in tensors and self._resident.get(name) is not tensors[name]:
                    self._upload(name, tensors[name], stream, held=is_held(name, tensors[name]))
            self._clock.record(0, captured=False)
            for name, count in self._counted.items():
                self._upload_rows(name, tensors[name], int(tensors[count].sum()), stream)
            self._launch()
            self._driver.synchronize(stream)
        except BaseException:
            self._resident.clear()
            with suppress(Exception):  # an interrupted frame ends before the next one writes into its buffers
                self._driver.synchronize(stream)
            raise
        return {name: self._hosts[name].copy() for name in self._outputs}

    def _upload(self, name: str, tensor: NDArray[Any], stream: Handle, *, held: bool) -> None:
        self._resident.pop(name, None)
        np.copyto(self._hosts[name], tensor)
        self._driver.upload(self._addresses[name], self._hosts[name], stream)
        if held:
            self._resident[name] = tensor

    def _upload_rows(self, name: str, tensor: NDArray[Any], count: int, stream: Handle) -> None:
        """Upload the first ``count`` rows, and zeros over what the last frame had behind them.

        A buffer is for the largest frame, and most frames fill a part of it. The rows behind are always zero, so that a
        result does not depend on the frames before.
        """
        host = self._hosts[name]
        filled, before = min(max(count, 0), len(host)), self._rows[name]
        np.copyto(host[:filled], tensor[:filled])
        host[filled:before] = 0
        self._rows[name] = len(host)  # of a frame that fails on the way nobody knows what came through
        if rows := max(filled, before):
            self._driver.upload(self._addresses[name], host[:rows], stream)
        self._rows[name] = filled

    def times_ms(self) -> dict[str, float]:
        """Milliseconds on the GPU of the last frame's ``STAGES``."""
        return self._clock.times_ms()

    def close(self) -> None:
        """Give everything back, when what is under way has ended; what the GPU has lost is let go."""
        if self._stream is not None:
            with suppress(Exception):
                self._driver.synchronize(self._stream)
        self._memory.close()
        self._release_engines()
        self._stream = None
