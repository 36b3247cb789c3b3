"""Convolution, batch normalisation, activation; and the separable form of it.

Source: MobileNet (Howard et al., 2017, arXiv 1704.04861) and DeepLab V3+ (Chen et al., 2018, arXiv 1802.02611, section
3.1) for separable convolutions.

Shapes:
    B batch, C channels, X Y pixels.
"""

from __future__ import annotations

from torch import nn

from repro_models.blocks.pointwise_conv import StridedPointwiseConv2d


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: nn.Module | None = None,
) -> nn.Sequential:
    """(B, in_channels, X, Y) -> (B, out_channels, X / stride, Y / stride), rounded up; the kernel's side is odd.

    The convolution has no bias. `activation=None`: none.
    """
    conv: nn.Module
    if kernel_size == 1 and stride > 1 and groups == 1:
        conv = StridedPointwiseConv2d(in_channels, out_channels, stride)
    else:
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), *([] if activation is None else [activation]))


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int = 1, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """`conv_norm` with a ReLU."""
    return conv_norm(
        in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, activation=nn.ReLU(inplace=True)
    )


def separable_conv_norm_relu(
    in_channels: int, out_channels: int, *, dilation: int = 1, has_inner_norm: bool = True
) -> nn.Sequential:
    """(B, in_channels, X, Y) -> (B, out_channels, X, Y): a depthwise 3x3 convolution and a pointwise one.

    Batch normalisation and ReLU follow both; without `has_inner_norm` only the pointwise one.
    """
    if has_inner_norm:
        depthwise: nn.Module = conv_norm(
            in_channels, in_channels, 3, dilation=dilation, groups=in_channels, activation=nn.ReLU(inplace=True)
        )
    else:
        depthwise = nn.Conv2d(
            in_channels, in_channels, 3, padding=dilation, dilation=dilation, groups=in_channels, bias=False
        )
    return nn.Sequential(depthwise, *conv_norm_relu(in_channels, out_channels))
