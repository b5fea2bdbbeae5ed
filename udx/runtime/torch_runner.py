"""The yardstick: a run's detector in torch, eager or compiled. Torch is imported when one is opened, not before."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from udx.data.inputs import Tensors
from udx.errors import MissingHardwareError, UdxError, first_line
from udx.runtime.onnx_file import expected_inputs, expected_outputs
from udx.runtime.onnxruntime_runner import require_threads
from udx.runtime.runner import Runner

if TYPE_CHECKING:
    import torch

    from udx.export.deploy import DeployableDetector

Device = Literal["cpu", "cuda"]


class TorchRunner(Runner):
    """A run folder, its detector with decoding inside as it is exported; ``compiled`` by torch's compiler.

    ``threads`` is torch's, so it is that of the whole process while the runner is active.
    """

    def __init__(
        self, path: Path, device: Device = "cpu", threads: int | None = None, *, compiled: bool = False
    ) -> None:
        require_threads(threads)
        _require_torch()
        from udx.export.description import manifest_of
        from udx.train.run import Run

        run = Run(path)
        manifest = manifest_of(run, run.record())
        super().__init__(path, manifest, expected_inputs(manifest), expected_outputs(manifest))
        self._device: Device = device
        self._threads = threads
        self._compiled = compiled
        self._module: DeployableDetector | None = None
        self._run: Any = None
        self._threads_before: int | None = None
        self._resident: dict[str, tuple[NDArray[Any], torch.Tensor]] = {}

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        """Version, device, threads (None: as the process has them), and whether the module is compiled."""
        import torch

        device = torch.cuda.get_device_name() if self._device == "cuda" and torch.cuda.is_available() else self._device
        return {
            "backend": "torch",
            "version": torch.__version__,
            "device": device,
            "threads": self._threads,
            "compiled": "yes" if self._compiled else "no",
        }

    def _activate(self) -> None:
        import torch

        from udx.export.deploy import DeployableDetector
        from udx.train.checkpoint import load_detector
        from udx.train.run import Run

        assert self._module is None, "already active"
        if self._device == "cuda" and not torch.cuda.is_available():
            raise MissingHardwareError(
                "this torch sees no CUDA device; install torch for CUDA and see udx doctor, or run on the CPU"
            )
        if self._threads is not None:
            self._threads_before = torch.get_num_threads()
            torch.set_num_threads(self._threads)
        detector, _ = load_detector(Run(self.path).checkpoint)
        try:
            self._module = DeployableDetector(detector).to(self._device)
        except RuntimeError as error:
            raise self._failure(error) from error
        self._run = torch.compile(self._module) if self._compiled else self._module

    def _infer(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        import torch

        assert self._module is not None, "activate the runner first"
        try:
            with torch.inference_mode():
                outputs = self._run(*(self._tensor(name, array) for name, array in tensors.items()))
                found = [output.cpu().numpy() for output in outputs]
        except RuntimeError as error:  # the compiler's errors and those of CUDA derive from it
            raise self._failure(error) from error
        return {spec.name: output for spec, output in zip(self.outputs, found, strict=True)}

    def _tensor(self, name: str, array: NDArray[Any]) -> "torch.Tensor":
        """On the device; what ``set_rig`` gave is copied there once."""
        import torch

        held, resident = self._resident.get(name, (None, None))
        if resident is not None and held is array:
            return resident
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self._device)
        if self._is_held(name, array):
            self._resident[name] = array, tensor
        return tensor

    def _failure(self, error: RuntimeError) -> UdxError:
        return UdxError(f"torch failed on {self.path} ({first_line(error)}); free memory, or run it on another device")

    def _deactivate(self) -> None:
        self._module = self._run = None
        self._resident = {}
        if self._threads_before is not None:
            import torch

            torch.set_num_threads(self._threads_before)
            self._threads_before = None


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UdxError("running a run folder needs torch; install udx[train], or give an exported engine") from error
