"""Aligned Xception of DeepLab V3+ (Chen et al., 2018, arXiv 1802.02611, section 3.2 and figure 4) as an encoder.

Entry flow of three units, middle flow of sixteen, exit flow; every pooling is a separable convolution with a stride,
and normalisation and ReLU follow every depthwise convolution.

Differs:
    - The exit flow dilates from a sixteenth (or an eighth) on.
    - The low-level map is that of the first unit, at a quarter of the image, as in the port whose count is published
      (128 channels).
Shapes:
    B batch, C channels, X Y pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from repro_models.blocks.conv_norm import conv_norm, conv_norm_relu

_NUM_MIDDLE_UNITS = 16


def _separable(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """Depthwise 3x3 convolution, normalisation, ReLU, pointwise convolution, normalisation."""
    depthwise = conv_norm(
        in_channels,
        in_channels,
        3,
        stride=stride,
        dilation=dilation,
        groups=in_channels,
        activation=nn.ReLU(inplace=True),
    )
    return [*depthwise, *conv_norm(in_channels, out_channels)]


class _Unit(nn.Module):
    """Three separable convolutions beside a shortcut: (B, channels[0], X, Y) -> (B, channels[3], X / stride, ...)."""

    def __init__(
        self, channels: Sequence[int], stride: int = 1, dilation: int = 1, starts_with_relu: bool = True
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, (in_channels, out_channels) in enumerate(pairwise(channels)):
            if index or starts_with_relu:
                # The first one must not change its input, which the shortcut takes too.
                layers.append(nn.ReLU(inplace=index > 0))
            layers += _separable(in_channels, out_channels, stride if index == 2 else 1, dilation)
        self.residual = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels[0] != channels[-1]:
            self.shortcut = conv_norm(channels[0], channels[-1], stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class AlignedXception(nn.Module):
    """Encoder of two maps; weights start as in ResNet (Kaiming normal, by the outputs).

    Args:
        in_channels: of the image.
        base_features: channels of the first convolution; the published network has 32.
        output_stride: of the last map: 16 or 8.

    Attributes:
        channels: of the two maps that are returned.
    """

    def __init__(self, in_channels: int, base_features: int = 32, output_stride: int = 16) -> None:
        super().__init__()
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride={output_stride}: must be 8 or 16")
        # 32, 64, 128, 256, 728, 1024, 1536 and 2048 in the published network.
        stem, low, entry, join, middle, exit_, wide, last = (
            base_features * factor // 32 for factor in (32, 64, 128, 256, 728, 1024, 1536, 2048)
        )
        is_dense = output_stride == 8
        middle_dilation = 2 if is_dense else 1
        self.stem = nn.Sequential(*conv_norm_relu(in_channels, stem, 3, stride=2), *conv_norm_relu(stem, low, 3))
        self.entry = nn.ModuleList(
            [
                _Unit((low, entry, entry, entry), stride=2, starts_with_relu=False),
                _Unit((entry, join, join, join), stride=2),
                _Unit((join, middle, middle, middle), stride=1 if is_dense else 2),
            ]
        )
        self.middle = nn.Sequential(
            *(_Unit((middle,) * 4, dilation=middle_dilation) for _ in range(_NUM_MIDDLE_UNITS)),
            _Unit((middle, middle, exit_, exit_), dilation=middle_dilation),
        )
        self.exit = nn.Sequential()
        for in_features, out_features in ((exit_, wide), (wide, wide), (wide, last)):
            self.exit.extend(
                [*_separable(in_features, out_features, dilation=2 * middle_dilation), nn.ReLU(inplace=True)]
            )
        self.channels = [entry, last]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, X, Y) -> the map of the first unit at a quarter and the last one at `output_stride`."""
        x = self.stem(x)
        maps = []
        for unit in self.entry:
            x = unit(x)
            maps.append(x)
        return [maps[0], self.exit(self.middle(x))]
