"""The objects of a batch, as the objectives see them."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from udx.train.losses import Boxes


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of B samples: where they stand, what they are, and how the cameras see them.

    ``boxes``: B tensors (N_i, 9) in the BEV frame; ``labels``: B tensors (N_i,) into ``CLASSES``;
    ``pixels_T_ego_BN34``: projection of homogeneous points of the BEV frame, metres, to each camera's homogeneous
    pixels (u·depth, v·depth, depth) of the images as the detector reads them; ``None`` without cameras.
    """

    boxes: Boxes
    labels: Sequence[Int[Tensor, " _"]]
    pixels_T_ego_BN34: Float[Tensor, "B N 3 4"] | None = None

    def of(self, samples: Sequence[int]) -> "Objects":
        """Return the objects of some of the samples."""
        cameras = self.pixels_T_ego_BN34
        return Objects(
            [self.boxes[sample] for sample in samples],
            [self.labels[sample] for sample in samples],
            None if cameras is None else cameras[list(samples)],
        )
