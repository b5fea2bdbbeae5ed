"""What every backend offers: activate, infer, deactivate."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from udx.data.detections import Detections
from udx.data.inputs import Tensors
from udx.errors import UdxError
from udx.manifest import Manifest
from udx.tensors import TensorSpec


class Runner(ABC):
    """An engine file bound to one backend.

    Opening reads and checks the file; ``activate`` (or ``with``) takes memory and devices, ``deactivate``
    gives them back. A runner can be activated again. One frame at a time: not for several threads at once.
    """

    def __init__(
        self, path: Path, manifest: Manifest, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.inputs = inputs
        self.outputs = outputs

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, str | int | None]:
        """What a report must say of the backend: its name, version, device, and whatever changes its speed."""

    @abstractmethod
    def _activate(self) -> None:
        """Take memory and devices."""

    @abstractmethod
    def _infer(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Run one frame whose tensors were checked."""

    @abstractmethod
    def _deactivate(self) -> None:
        """Give memory and devices back; safe to call when ``_activate`` failed half-way."""

    def activate(self) -> None:
        """Make ready to infer.

        Raises:
            UdxError: the backend refuses the engine.
        """
        try:
            self._activate()
        except BaseException:
            self._deactivate()
            raise

    def deactivate(self) -> None:
        """Release everything that ``activate`` took."""
        self._deactivate()

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deactivate()

    def infer(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Run one frame: ``boxes`` (K, 9), ``scores`` (K,) and ``labels`` (K,), as the engine ranks them.

        Raises:
            UdxError: an input is missing, unknown, or of another shape or dtype; or the backend failed.
        """
        self._require_inputs(tensors)
        return self._infer(tensors)

    def detect(self, tensors: Tensors) -> Detections:
        """Run one frame and check what came out.

        Raises:
            UdxError: as ``infer``; or the engine's output is no set of boxes, for example holds NaN.
        """
        outputs = self.infer(tensors)
        try:
            return Detections(boxes_K9=outputs["boxes"], scores_K=outputs["scores"], labels_K=outputs["labels"])
        except ValueError as error:
            raise UdxError(f"{self.path} gave no usable boxes ({error}); check how it was exported") from error

    def _require_inputs(self, tensors: Tensors) -> None:
        wanted = {spec.name for spec in self.inputs}
        if wanted != set(tensors):
            raise UdxError(f"{self.path} reads inputs {sorted(wanted)}, not {sorted(tensors)}; give exactly these")
        for spec in self.inputs:
            given = TensorSpec(spec.name, tensors[spec.name].shape, tensors[spec.name].dtype.name)
            if not spec.admits(given):
                raise UdxError(f"{self.path} reads {spec}, not {given}; bring the frame to the engine's sensor spec")
            largest = self.manifest.dynamic.get(spec.name)
            if largest is not None and not 1 <= given.shape[0] <= largest:
                raise UdxError(f"{self.path} reads 1 to {largest} rows of {spec}, not {given.shape[0]}; thin them out")
