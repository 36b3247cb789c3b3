"""Residual convolution block and the decoder step built of it, as in UNETR and Swin UNETR.

Source: UNETR (Hatamizadeh et al., 2022, arXiv 2103.10504), figure 2, in the form its authors published: instance
normalisation without scale and shift, leaky ReLU of slope 0.01, convolutions without bias.

Shapes:
    B batch, C channels, X Y (Z) voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repro_models.blocks.instance_norm import INSTANCE_NORM

CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONV: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NEGATIVE_SLOPE = 0.01


class ResidualConvBlock(nn.Module):
    """Two convolutions of side 3, beside a shortcut that is a 1x1 convolution where channels change.

    (B, in_channels, *spatial) -> (B, out_channels, *spatial).
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        conv, norm = CONV[spatial_dims], INSTANCE_NORM[spatial_dims]
        self.residual = nn.Sequential(
            conv(in_channels, out_channels, 3, padding=1, bias=False),
            norm(out_channels),
            nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
            conv(out_channels, out_channels, 3, padding=1, bias=False),
            norm(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Sequential(conv(in_channels, out_channels, 1, bias=False), norm(out_channels))
        self.activation = nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial); instance norm wants two voxels or more."""
        return self.activation(self.residual(x) + self.shortcut(x))


def upsampling(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Module:
    """Transposed convolution that doubles every side, without bias."""
    return TRANSPOSED_CONV[spatial_dims](in_channels, out_channels, 2, stride=2, bias=False)


class UpsampleAndJoin(nn.Module):
    """A step of the decoder: double the sides, append the skip connection, convolve both.

    The skip connection has `out_channels` channels.
    """

    def __init__(self, spatial_dims: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsampling = upsampling(spatial_dims, in_channels, out_channels)
        self.block = ResidualConvBlock(spatial_dims, 2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join a coarse map with the skip connection of the next finer level.

        Args:
            x: (B, in_channels, *spatial).
            skip: (B, out_channels, *doubled spatial).

        Returns:
            (B, out_channels, *doubled spatial).
        """
        return self.block(torch.cat([self.upsampling(x), skip], dim=1))
