"""BEV encoder: the two-stage convolutional backbone of SECOND (Yan et al., Sensors 2018)."""

from dataclasses import dataclass
from math import prod
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from udx.models.blocks import MAX_CHANNELS, conv_bn_relu, upsample_bn_relu
from udx.ranges import require_range

MAX_STAGES: Final = 8
MAX_STRIDE: Final = 8
MAX_CONVOLUTIONS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BevEncoderConfig:
    """One entry a stage: channels, stride of its first convolution, convolutions after it, channels it ends in.

    Every stage's output is brought back to the grid's own resolution; all are concatenated.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    convolutions: tuple[int, ...]
    out_channels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len({len(self.channels), len(self.strides), len(self.convolutions), len(self.out_channels)}) != 1:
            raise ValueError(f"a BEV encoder needs one entry a stage everywhere, not {self}")
        require_range(at_least=1, at_most=MAX_STAGES, stages=len(self.channels))
        for width in (*self.channels, *self.out_channels):
            require_range(at_least=1, at_most=MAX_CHANNELS, channels=width)
        for stride, convolutions in zip(self.strides, self.convolutions, strict=True):
            require_range(at_least=1, at_most=MAX_STRIDE, stride=stride)
            require_range(at_least=0, at_most=MAX_CONVOLUTIONS, convolutions=convolutions)

    @property
    def stride(self) -> int:
        """Of the last stage, relative to the grid."""
        return prod(self.strides)


class BevEncoder(nn.Module):
    """Strided stages, each upsampled to the input's resolution and concatenated."""

    def __init__(self, config: BevEncoderConfig, channels_in: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.upsample = nn.ModuleList()
        for stage, channels in enumerate(config.channels):
            width_in = config.channels[stage - 1] if stage else channels_in
            self.stages.append(
                nn.Sequential(
                    conv_bn_relu(width_in, channels, stride=config.strides[stage]),
                    *(conv_bn_relu(channels, channels) for _ in range(config.convolutions[stage])),
                )
            )
            factor = prod(config.strides[: stage + 1])
            self.upsample.append(upsample_bn_relu(channels, config.out_channels[stage], factor))

    def forward(self, low_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H W"]:
        """High BEV map, at the resolution of the low one."""
        outputs = []
        hidden = low_BCHW
        for stage, upsample in zip(self.stages, self.upsample, strict=True):
            hidden = stage(hidden)
            outputs.append(upsample(hidden))
        return torch.cat(outputs, dim=1)
