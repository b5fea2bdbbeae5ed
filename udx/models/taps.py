"""What every detector yields, whatever its sensors.

Legend: B batch, N cameras, D depth bins, h w camera feature rows and columns, C channels, H W grid rows (y) and
columns (x), K classes, R regression channels.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from udx.geometry import BevGrid, Frustum


@dataclass(frozen=True, slots=True)
class HeadMaps:
    """Raw maps of the centre head: class heatmap logits and the regression maps of all task groups."""

    heatmap_BKHW: Float[Tensor, "B K H W"]
    regression_BRHW: Float[Tensor, "B R H W"]


@dataclass(frozen=True, slots=True)
class Tap:
    """Declaration of one tap: its channels, and its stride relative to the detector's grid."""

    channels: int
    stride: int


@dataclass(frozen=True, slots=True)
class PerspectiveTap:
    """Declaration of the cameras' feature maps: their channels, and the frustum whose rows and columns they have."""

    channels: int
    frustum: Frustum


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTaps:
    """What a detector yields, with strides relative to ``grid``; a test holds every detector to it.

    ``heads`` counts the channels of the heatmap and of the regression maps together. A detector without cameras has
    no ``perspective``.
    """

    grid: BevGrid
    low: Tap
    high: Tap
    heads: Tap
    perspective: PerspectiveTap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderTaps:
    """What the sensor encoder yields: the BEV map before the BEV encoder.

    One with cameras also yields their feature maps and the logits of their depth distributions.
    """

    low_BCHW: Float[Tensor, "B C H W"]
    perspective_BNChw: Float[Tensor, "B N C3 h w"] | None = None
    depth_BNDhw: Float[Tensor, "B N D h w"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps(EncoderTaps):
    """The places where whole detectors can be compared: also the BEV map after the BEV encoder, and the head maps."""

    high_BCHW: Float[Tensor, "B C2 H2 W2"]
    heads: HeadMaps
