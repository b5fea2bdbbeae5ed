"""Building blocks that several networks share."""

from typing import Final

from torch import nn

MAX_CHANNELS: Final = 8192
"""Widest layer that a configuration may ask for."""


def conv_bn_relu(channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (divided by ``stride``), batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def upsample_bn_relu(channels_in: int, channels_out: int, factor: int) -> nn.Sequential:
    """Learned upsampling by ``factor`` without overlap, batch norm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels_in, channels_out, factor, stride=factor, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
