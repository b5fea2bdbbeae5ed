"""A detector without memory: whether a configuration makes one, and the shapes of its weights."""

from dataclasses import replace
from typing import Final

import torch

from udx.errors import UdxError, first_line
from udx.models.detector import Detector, DetectorConfig

MAX_WEIGHTS: Final = 2**31
"""Numbers in a detector's weights: 8 GiB in FP32."""


def outline_detector(config: DetectorConfig, where: str) -> Detector:
    """Build the detector of a configuration on the meta device, where tensors have shapes and no memory.

    ``where`` names the source of the configuration.

    Raises:
        UdxError: no detector can be built from it, or one of more than ``MAX_WEIGHTS``.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            detector = Detector(without_pretrained(config))
            if detector.camera is not None:  # backbones check their settings in part as late as here
                frustum = detector.camera.frustum
                detector.camera.neck(torch.zeros(1, 1, frustum.image_height_px, frustum.image_width_px, 3))
    except Exception as error:  # of the transformers library's models, for settings that do not fit together
        raise UdxError(
            f"no detector can be built from the configuration of {where} ({type(error).__name__}: "
            f"{first_line(error)}); correct detector.camera.settings or the widths"
        ) from error
    weights = sum(tensor.numel() for tensor in detector.state_dict().values())
    if weights > MAX_WEIGHTS:
        raise UdxError(f"the detector of {where} has {weights:,} weights, more than {MAX_WEIGHTS:,}; narrow it")
    return detector


def without_pretrained(config: DetectorConfig) -> DetectorConfig:
    """The same detector with nothing to fetch for its backbone."""
    return replace(config, camera=replace(config.camera, pretrained=None))
