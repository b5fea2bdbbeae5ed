"""Fusion of the camera's and the LiDAR's low BEV maps by a gated convolution."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from udx.models.blocks import conv_bn_relu


class GatedFusion(nn.Module):
    """Concatenate, weigh each channel by a gate computed from the whole map, convolve."""

    def __init__(self, low_channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2 * low_channels, 2 * low_channels, 1)
        self.merge = conv_bn_relu(2 * low_channels, low_channels)

    def forward(
        self, lidar_BCHW: Float[Tensor, "B C H W"], camera_BCHW: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """Fused low BEV map."""
        both = torch.cat([lidar_BCHW, camera_BCHW], dim=1)
        # Row by row, then over the rows: sums of a whole map lose digits, each backend's in its own way.
        gate = self.gate(both.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)).sigmoid()
        fused: Tensor = self.merge(both * gate)
        return fused
