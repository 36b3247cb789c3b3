"""Convolutions of VGG-16 (Simonyan and Zisserman, 2015, arXiv 1409.1556, table 1, column D), stage by stage.

Thirteen 3x3 convolutions in five stages. What stands between the stages and after them is the network's own, because
that is where FCN, SegNet and DeepLab differ.

Differs:
    - Weights start as by Kaiming normal, biases 0; the paper's own start does not train so many layers at once.
Shapes:
    B batch, C channels, X Y pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

NUM_CONVS = (2, 2, 3, 3, 3)
"""Of each stage."""


def vgg_widths(base_features: int) -> list[int]:
    """Channels of each stage."""
    return [base_features * factor for factor in (1, 2, 4, 8, 8)]


def vgg_stages(
    in_channels: int,
    base_features: int = 64,
    *,
    has_norm: bool = False,
    last_dilation: int = 1,
    first_padding: int = 1,
) -> nn.ModuleList:
    """Five stages of convolution and ReLU, without the poolings after them.

    Args:
        in_channels: of the image.
        base_features: channels of the first stage.
        has_norm: batch normalisation before every ReLU.
        last_dilation: of the convolutions of the last stage.
        first_padding: of the first convolution; the others keep the sides.
    """
    widths = vgg_widths(base_features)
    stages = nn.ModuleList()
    for number, (num_convs, width) in enumerate(zip(NUM_CONVS, widths, strict=True)):
        dilation = last_dilation if number == len(widths) - 1 else 1
        channels = [in_channels if number == 0 else widths[number - 1], *[width] * num_convs]
        stages.append(vgg_convs(channels, has_norm=has_norm, dilation=dilation))
    stages[0][0].padding = (first_padding, first_padding)  # type: ignore[index]
    return stages


def vgg_convs(
    channels: Sequence[int], kernel_size: int = 3, *, has_norm: bool, has_relu: bool = True, dilation: int = 1
) -> nn.Sequential:
    """(B, channels[0], X, Y) -> (B, channels[-1], X, Y): convolutions with bias, norms and ReLUs as asked for."""
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise(channels):
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=dilation * (kernel_size // 2), dilation=dilation
        )
        initialise_conv(conv)
        layers.append(conv)
        if has_norm:
            layers.append(nn.BatchNorm2d(out_channels))
        if has_relu:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def initialise_conv(conv: nn.Conv2d) -> None:
    """Kaiming normal, bias 0."""
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
