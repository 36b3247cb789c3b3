"""Atrous spatial pyramid pooling of DeepLab V3 (Chen et al., 2017, arXiv 1706.05587, section 3.3).

A 1x1 convolution, atrous 3x3 convolutions side by side and the mean of the whole map, each with batch normalisation
and ReLU; joined, and reduced by a 1x1 convolution. Separable convolutions: DeepLab V3+ (arXiv 1802.02611, section 3.1).

Differs:
    - A batch of a single image, in training, normalises the mean of its map by the running statistics: it has no
      others, and torch refuses it.
Shapes:
    B batch, C channels, X Y pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.conv_norm import conv_norm_relu, separable_conv_norm_relu

SEPARABLE = ("no", "plain", "normalised")
"""Kinds of the 3x3 convolutions: full ones; depthwise and pointwise; the same with normalisation and ReLU between."""


def pyramid_conv(in_channels: int, out_channels: int, separable: str, dilation: int = 1) -> nn.Sequential:
    """(B, in_channels, X, Y) -> (B, out_channels, X, Y): 3x3 convolution of a kind of `SEPARABLE`, with ReLU."""
    if separable == "no":
        return conv_norm_relu(in_channels, out_channels, 3, dilation=dilation)
    return separable_conv_norm_relu(
        in_channels, out_channels, dilation=dilation, has_inner_norm=separable == "normalised"
    )


class _ImagePooling(nn.Module):
    """(B, in_channels, X, Y) -> (B, out_channels, X, Y): the same values everywhere."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.conv(x.mean((2, 3), keepdim=True))
        if self.training and len(x) == 1:
            norm = self.norm
            mean = functional.batch_norm(
                mean, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )
        else:
            mean = self.norm(mean)
        return mean.relu().expand(-1, -1, *x.shape[2:])


class ASPP(nn.Module):
    """(B, in_channels, X, Y) -> (B, out_channels, X, Y).

    Args:
        in_channels: of the map.
        out_channels: of each branch and of the result.
        rates: of the atrous convolutions.
        separable: kind of the atrous convolutions, of `SEPARABLE`.
        dropout: at the end.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rates: Sequence[int],
        separable: str = "no",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_norm_relu(in_channels, out_channels),
                *(pyramid_conv(in_channels, out_channels, separable, rate) for rate in rates),
                _ImagePooling(in_channels, out_channels),
            ]
        )
        self.projection = nn.Sequential(
            *conv_norm_relu(len(self.branches) * out_channels, out_channels), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Join the branches."""
        return self.projection(torch.cat([branch(x) for branch in self.branches], dim=1))
