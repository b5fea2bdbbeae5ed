"""The part of a detector that is deployed: sensor tensors in, boxes out; one frame, no batch."""

import torch
from torch import Tensor, nn

from udx.data.inputs import input_shapes
from udx.models.decode import decode
from udx.models.detector import Detector, DetectorInputs

OUTPUTS = ("boxes", "scores", "labels")
"""boxes (K, 9) in the BEV frame, scores (K,) in descending order, labels (K,) into ``CLASSES``."""


class DeployableDetector(nn.Module):
    """A detector with decoding inside, taking the tensors of ``input_shapes`` in their order.

    It holds the detector and nothing else: teacher, adapters and losses live outside of any detector.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector.eval()
        self.names = tuple(input_shapes(detector.config.spec))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``OUTPUTS``."""
        # TensorRT reads bytes with a cast and with nothing else: the cast comes first.
        numbers = [tensor.float() if tensor.dtype == torch.uint8 else tensor for tensor in tensors]
        batch_of_one = {name: tensor[None] for name, tensor in zip(self.names, numbers, strict=True)}
        config = self.detector.config
        heads = self.detector(DetectorInputs(**batch_of_one)).heads
        decoded = decode(heads, config.spec.grid, config.max_boxes)
        return decoded.boxes_BK9[0], decoded.scores_BK[0], decoded.labels_BK[0]
