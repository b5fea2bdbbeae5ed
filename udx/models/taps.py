"""What every detector yields, whatever its sensors.

Legend: B batch, C channels, H W grid rows (y) and columns (x), K classes, R regression channels.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from udx.geometry import BevGrid


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredTaps:
    """What a detector yields, with strides relative to ``grid``; a test holds every detector to it.

    ``heads`` counts the channels of the heatmap and of the regression maps together.
    """

    grid: BevGrid
    low: Tap
    high: Tap
    heads: Tap


@dataclass(frozen=True, slots=True)
class Taps:
    """The three places where detectors can be compared: BEV map before and after the BEV encoder, head maps.

    A detector with cameras also yields the logits of their depth distributions.
    """

    low_BCHW: Float[Tensor, "B C H W"]
    high_BCHW: Float[Tensor, "B C2 H2 W2"]
    heads: HeadMaps
    depth_BNDhw: Float[Tensor, "B N D h w"] | None = None
