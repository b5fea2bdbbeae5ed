"""The runner of plans on a GPU: TensorRT's engines, and TensorRT-RTX's segments with kernels between them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from udx.data.inputs import Tensors
from udx.errors import UdxError
from udx.manifest import Manifest
from udx.runtime.cuda_driver import cuda_driver, first_device
from udx.runtime.device.cuda import Device
from udx.runtime.device.driver import open_driver
from udx.runtime.device.engines import Library, load_library
from udx.runtime.device.errors import explained
from udx.runtime.device.frame import DeviceFrame
from udx.runtime.device.program import Program, program_of_bundle, program_of_plan
from udx.runtime.onnx_file import expected_inputs, expected_outputs
from udx.runtime.partitioned import KernelStep, PartitionedFile, SegmentStep, read_partitioned
from udx.runtime.plan_file import PlanFile, read_plan
from udx.runtime.runner import Runner


class DeviceRunner(Runner):
    """Runs a plan that was checked; the file is read and checked again when the runner is activated.

    Activate, infer and deactivate in one thread: a context is current in one, and pycuda binds memory
    to it. Several runners share the GPU's context.
    """

    def __init__(
        self, path: Path, manifest: Manifest, load: Callable[[], Program], *, library: Library, version: str
    ) -> None:
        super().__init__(path, manifest, expected_inputs(manifest), expected_outputs(manifest))
        self._load = load
        self._device: Device | None = None
        self._frame: DeviceFrame | None = None
        self._settings: dict[str, str | int | None] = {"backend": library, "version": version}

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        """Library and version; once it was active also GPU, steps, memory, and whether frames are CUDA graphs."""
        return self._settings

    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of the last frame on the GPU: ``upload``, ``network``, ``download``.

        Raises:
            UdxError: the GPU is lost.
        """
        device, frame = self._active()
        with device.current(), explained(f"the times of {self.path} cannot be read"):
            return frame.times_ms()

    def layers(self) -> list[str]:
        """What the library made of every engine: a line per layer with its tactic, and one per kernel between them."""
        device, frame = self._active()
        with device.current(), explained(f"the layers of {self.path} cannot be read"):
            return frame.layers(load_library(frame.library))

    def _activate(self) -> None:
        assert self._frame is None, "already active"
        program = self._load()
        gpu = first_device(cuda_driver())
        library = load_library(program.library)
        program.require(library, gpu)
        self._device = Device(open_driver())
        with self._device.current():
            self._frame = DeviceFrame(self._device, program, gpu)
        self._settings |= {
            "device": gpu.name,
            "driver": self._device.driver.name,
            "cuda_graph": self._frame.graph,
            "engines": self._frame.validity,
            "runtime_cache": self._frame.runtime_cache,
            "segments": sum(isinstance(step, SegmentStep) for step in program.steps),
            "kernels": sum(isinstance(step, KernelStep) for step in program.steps),
            "arena_bytes": program.arena_bytes,
            "scratch_bytes": self._frame.scratch_bytes,
        }

    def _infer(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        device, frame = self._active()
        with device.current(), explained(f"{self.path} failed on the GPU in mid-run"):
            return frame.run(tensors, self._is_held)

    def _active(self) -> tuple[Device, DeviceFrame]:
        assert self._device is not None and self._frame is not None, "activate the runner first"
        return self._device, self._frame

    def _deactivate(self) -> None:
        device, frame = self._device, self._frame
        self._device = self._frame = None
        if device is None:
            return
        if frame is not None:
            try:
                with device.current():
                    frame.close()
            except UdxError:  # the context is lost, and all memory in it
                frame.close()
        device.close()


def open_bundle(file: PartitionedFile) -> DeviceRunner:
    """The runner of a partitioned plan of TensorRT-RTX; nothing of the GPU is touched yet."""

    def load() -> Program:
        found = read_partitioned(file.path)
        if found.plan != file.plan:
            raise UdxError(f"{file.path} has been replaced since it was opened; open it again")
        return program_of_bundle(found)

    return DeviceRunner(file.path, file.manifest, load, library="tensorrt-rtx", version=file.plan.backend_version)


def open_plan(file: PlanFile) -> DeviceRunner:
    """The runner of a TensorRT plan; nothing of the GPU is touched yet."""

    def load() -> Program:
        found = read_plan(file.path)
        if found.record != file.record:
            raise UdxError(f"{file.path} has been replaced since it was opened; open it again")
        return program_of_plan(found)

    return DeviceRunner(file.path, file.manifest, load, library="tensorrt", version=file.record.key.tensorrt)
