"""ResNet as an encoder (He et al., 2016, arXiv 1512.03385), with atrous stages where a finer last map is wanted.

Table 1: a 7x7 convolution and a max-pooling, then stages of residual units; units have two 3x3 convolutions or the
bottleneck 1x1, 3x3, 1x1. Atrous stages and multi-grid: DeepLab V3 (Chen et al., 2017, arXiv 1706.05587, section 3.1).

Differs:
    - There is no classifier: all maps are returned.
    - Two forms of the bottleneck are in use: `strides_first_conv` is the paper's, the other one torchvision's.
    - An atrous stage may leave its first unit at the dilation of the stage before, as torchvision does.
Shapes:
    B batch, C channels, X Y pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.conv_norm import conv_norm, conv_norm_relu

_EXPANSION = 4


class _Unit(nn.Module):
    """Residual unit: (B, in_channels, X, Y) -> (B, out_channels, X / stride, Y / stride), rounded up."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        is_bottleneck: bool,
        stride: int,
        dilation: int,
        strides_first_conv: bool,
    ) -> None:
        super().__init__()
        if is_bottleneck:
            width = out_channels // _EXPANSION
            first, second = (stride, 1) if strides_first_conv else (1, stride)
            self.residual = nn.Sequential(
                *conv_norm_relu(in_channels, width, stride=first),
                *conv_norm_relu(width, width, 3, stride=second, dilation=dilation),
                *conv_norm(width, out_channels),
            )
        else:
            self.residual = nn.Sequential(
                *conv_norm_relu(in_channels, out_channels, 3, stride=stride, dilation=dilation),
                *conv_norm(out_channels, out_channels, 3, dilation=dilation),
            )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = conv_norm(in_channels, out_channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Encoder of one to four stages; weights start as in the paper (Kaiming normal, by the outputs).

    Args:
        in_channels: of the image.
        num_blocks: residual units of each stage.
        base_features: of the first convolution; stage i has 2^i times as many, and 4 times that with bottlenecks.
        is_bottleneck: units of three convolutions; False: of two, as in ResNet-18 and -34.
        output_stride: the sides of the maps shrink by this at most, later stages dilate instead: 4, 8, 16 or 32.
        multi_grid: factors of the dilation of the units of the last stage, one each; empty: all 1.
        strides_first_conv: the first convolution of a bottleneck has the stride, as in the paper; else its second.
        dilates_first_unit: the first unit of a stage that dilates does so too; else it keeps the dilation before it.
        pool_rounds_up: the max-pooling keeps a last odd row, as Caffe does.

    Attributes:
        channels: of each map that is returned.
    """

    def __init__(
        self,
        in_channels: int,
        num_blocks: Sequence[int] = (3, 4, 6, 3),
        base_features: int = 64,
        *,
        is_bottleneck: bool = True,
        output_stride: int = 32,
        multi_grid: Sequence[int] = (),
        strides_first_conv: bool = False,
        dilates_first_unit: bool = True,
        pool_rounds_up: bool = False,
    ) -> None:
        super().__init__()
        if output_stride not in (4, 8, 16, 32):
            raise ValueError(f"output_stride={output_stride}: must be 4, 8, 16 or 32")
        if multi_grid and len(multi_grid) != num_blocks[-1]:
            raise ValueError(
                f"multi_grid={tuple(multi_grid)}: the last stage has {num_blocks[-1]} units and wants a factor for each"
            )
        self.stem = conv_norm_relu(in_channels, base_features, 7, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=pool_rounds_up)
        self.stages = nn.ModuleList()
        self.channels = [base_features]
        current_stride, dilation = 4, 1
        for number, num_units in enumerate(num_blocks):
            stride, previous_dilation = (1 if number == 0 else 2), dilation
            if current_stride * stride > output_stride:
                stride, dilation = 1, dilation * stride
            current_stride *= stride
            width = base_features * 2**number * (_EXPANSION if is_bottleneck else 1)
            grid = multi_grid if multi_grid and number == len(num_blocks) - 1 else [1] * num_units
            units = [
                _Unit(
                    self.channels[-1] if index == 0 else width,
                    width,
                    is_bottleneck=is_bottleneck,
                    stride=stride if index == 0 else 1,
                    dilation=factor * (dilation if index or dilates_first_unit else previous_dilation),
                    strides_first_conv=strides_first_conv,
                )
                for index, factor in enumerate(grid)
            ]
            self.stages.append(nn.Sequential(*units))
            self.channels.append(width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps from fine to coarse.

        Args:
            x: (B, in_channels, X, Y).

        Returns:
            The map before the max-pooling, (B, channels[0], X / 2, Y / 2), and that of each stage: (B, channels[1],
            X / 4, Y / 4), ... down to `output_stride`; sides are rounded up.
        """
        maps = [self.stem(x)]
        x = self.pool(maps[0])
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
