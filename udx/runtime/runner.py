"""What every backend offers: activate, infer, deactivate."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udx.data.detections import Detections
from udx.data.images import ImageWarp, Size
from udx.data.inputs import CALIBRATION, Tensors, calibration_inputs
from udx.errors import UdxError
from udx.geometry import CameraRig
from udx.manifest import Manifest
from udx.tensors import TensorSpec


class Runner(ABC):
    """An engine file bound to one backend.

    Opening reads and checks the file; ``activate`` (or ``with``) takes memory and devices, ``deactivate``
    gives them back. A runner can be activated again. Threads may share one: it runs their frames one after another.
    """

    def __init__(
        self, path: Path, manifest: Manifest, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.inputs = inputs
        self.outputs = outputs
        self._calibration: Tensors = {}
        self._in_use = Lock()

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, str | int | None]:
        """What a report must say of the backend: its name, version, device, and whatever changes its speed."""

    @abstractmethod
    def _activate(self) -> None:
        """Take memory and devices."""

    @abstractmethod
    def _infer(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Run one frame whose tensors were checked, in the order of ``inputs``."""

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

    def __enter__(self) -> "Runner":
        self.activate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deactivate()

    def set_rig(self, rig: CameraRig, image_size_px: Size | None = None) -> None:
        """Take a calibration, for every frame from now on that does not bring its own ``CALIBRATION``.

        The engine stays as it is, and so does what ``activate`` took; the calibration outlives ``deactivate``.

        Args:
            rig: the detector's cameras, in any order.
            image_size_px: width and height of the images that the intrinsics are of; without it they are of the
                network's, as the manifest's.

        Raises:
            UdxError: the detector has no cameras, the rig lacks one of them, an intrinsic matrix has no inverse, or
                there are no images of such a size.
        """
        spec = self.manifest.spec
        if image_size_px is not None and spec.camera is not None:
            frustum = spec.camera.frustum
            try:
                warp = ImageWarp(image_size_px, (frustum.image_width_px, frustum.image_height_px))
                rig = rig.with_image_transforms(np.broadcast_to(warp.new_T_old, rig.intrinsics_N33.shape))
            except ValueError as error:
                raise UdxError(
                    f"the rig cannot be used ({error}); give the size of the images that it is of"
                ) from error
        held = calibration_inputs(rig, spec)
        for tensor in held.values():
            tensor.flags.writeable = False
        self._calibration = held

    def infer(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Run one frame: ``boxes`` (K, 9), ``scores`` (K,) and ``labels`` (K,), as the engine ranks them.

        After ``set_rig`` a frame may leave out both tensors of ``CALIBRATION``.

        Raises:
            UdxError: an input is missing, unknown, or of another shape or dtype; or the backend failed.
        """
        # One half of a pooling plan means nothing beside the other half of another.
        if not tensors.keys() & set(CALIBRATION):
            tensors = {**tensors, **self._calibration}
        self._require_inputs(tensors)
        with self._in_use:
            return self._infer({spec.name: tensors[spec.name] for spec in self.inputs})

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

    def _is_held(self, name: str, tensor: NDArray[Any]) -> bool:
        """Whether a tensor is that of ``set_rig``: while it is the same object, its values are the same."""
        return tensor is self._calibration.get(name)

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
