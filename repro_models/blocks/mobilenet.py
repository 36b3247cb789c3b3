"""MobileNetV2 (Sandler et al., 2018, arXiv 1801.04381) and MobileNetV3-Large (Howard et al., 2019, arXiv 1905.02244).

As encoders for segmentation: from a sixteenth on they dilate instead of striding.

V2: table 2 and figure 4. V3: table 1, section 5.2 (squeeze and excitation to a quarter) and 5.1.1 (hard swish).

Differs:
    - Without the classifier and what leads to it: V2 ends at its last bottleneck, V3 at its last 1x1 convolution.
    - V2: the first unit of a stage that dilates keeps the dilation before it, as the authors' code does; V3: it
      dilates, as torchvision's does.
    - A published port of DeepLab V3+ pads maps before the expansion of a unit, where zeros become the activations of
      biases, and does not pad in the first convolution; `has_port_padding=True` restores that.
Shapes:
    B batch, C channels, X Y pixels.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.conv_norm import conv_norm

_OUTPUT_STRIDE = 16
# Of MobileNetV3's batch normalisation.
_V3_EPS, _V3_MOMENTUM = 1e-3, 0.01


class _V2Stage(NamedTuple):
    expansion: int
    channels: int
    num_units: int
    stride: int


_V2_STAGES = (
    _V2Stage(1, 16, 1, 1),
    _V2Stage(6, 24, 2, 2),
    _V2Stage(6, 32, 3, 2),
    _V2Stage(6, 64, 4, 2),
    _V2Stage(6, 96, 3, 1),
    _V2Stage(6, 160, 3, 2),
    _V2Stage(6, 320, 1, 1),
)
_V2_STEM_CHANNELS = 32


class _V3Unit(NamedTuple):
    kernel_size: int
    hidden: int
    channels: int
    has_squeeze: bool
    has_hard_swish: bool
    stride: int


_V3_UNITS = (
    _V3Unit(3, 16, 16, False, False, 1),
    _V3Unit(3, 64, 24, False, False, 2),
    _V3Unit(3, 72, 24, False, False, 1),
    _V3Unit(5, 72, 40, True, False, 2),
    _V3Unit(5, 120, 40, True, False, 1),
    _V3Unit(5, 120, 40, True, False, 1),
    _V3Unit(3, 240, 80, False, True, 2),
    _V3Unit(3, 200, 80, False, True, 1),
    _V3Unit(3, 184, 80, False, True, 1),
    _V3Unit(3, 184, 80, False, True, 1),
    _V3Unit(3, 480, 112, True, True, 1),
    _V3Unit(3, 672, 112, True, True, 1),
    _V3Unit(5, 672, 160, True, True, 2),
    _V3Unit(5, 960, 160, True, True, 1),
    _V3Unit(5, 960, 160, True, True, 1),
)
_V3_STEM_CHANNELS = 16
_V3_LAST_CHANNELS = 960


class _SqueezeExcitation(nn.Module):
    """Scale each channel by what the means of all say: (B, C, X, Y) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _to_multiple_of_8(channels / 4)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * functional.hardsigmoid(self.excite(self.squeeze(mean).relu()))


class _InvertedResidual(nn.Module):
    """Expand, convolve depthwise, project: (B, in_channels, X, Y) -> (B, channels, X / stride, Y / stride)."""

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        channels: int,
        kernel_size: int,
        stride: int,
        dilation: int,
        activation: type[nn.Module],
        has_squeeze: bool = False,
        pads_input: bool = False,
    ) -> None:
        super().__init__()
        expand = [] if hidden == in_channels else list(conv_norm(in_channels, hidden, activation=activation()))
        depthwise = conv_norm(
            hidden, hidden, kernel_size, stride=stride, dilation=dilation, groups=hidden, activation=activation()
        )
        self.input_padding = 0
        if pads_input:
            self.input_padding = dilation * (kernel_size // 2)
            depthwise[0].padding = (0, 0)  # type: ignore[assignment]
        squeeze = [_SqueezeExcitation(hidden)] if has_squeeze else []
        self.convs = nn.Sequential(*expand, *depthwise, *squeeze, *conv_norm(hidden, channels))
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(functional.pad(x, (self.input_padding,) * 4) if self.input_padding else x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """Stem and seven stages, at a sixteenth.

    Args:
        in_channels: of the image.
        has_port_padding: pad as the published port does, see **Differs**.

    Attributes:
        channels: of the two maps that are returned.
    """

    def __init__(self, in_channels: int, has_port_padding: bool = False) -> None:
        super().__init__()
        self.stem = conv_norm(in_channels, _V2_STEM_CHANNELS, 3, stride=2, activation=nn.ReLU6(inplace=True))
        if has_port_padding:
            self.stem[0].padding = (0, 0)  # type: ignore[assignment]
        self.stages = nn.ModuleList()
        width, current_stride, dilation = _V2_STEM_CHANNELS, 2, 1
        for stage in _V2_STAGES:
            stride, previous_dilation = stage.stride, dilation
            if current_stride * stride > _OUTPUT_STRIDE:
                stride, dilation = 1, dilation * stride
            current_stride *= stride
            units = []
            for index in range(stage.num_units):
                units.append(
                    _InvertedResidual(
                        width,
                        width * stage.expansion,
                        stage.channels,
                        3,
                        stride if index == 0 else 1,
                        previous_dilation if index == 0 else dilation,
                        nn.ReLU6,
                        pads_input=has_port_padding,
                    )
                )
                width = stage.channels
            self.stages.append(nn.Sequential(*units))
        self.channels = [_V2_STAGES[1].channels, _V2_STAGES[-1].channels]
        _initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, X, Y) -> the map of the second stage at a quarter and the last one at a sixteenth."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [maps[1], maps[-1]]


class MobileNetV3(nn.Module):
    """Stem, fifteen units and the last convolution, at a sixteenth.

    Args:
        in_channels: of the image.

    Attributes:
        channels: of the two maps that are returned.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stem = conv_norm(in_channels, _V3_STEM_CHANNELS, 3, stride=2, activation=nn.Hardswish())
        self.units = nn.ModuleList()
        width, current_stride, dilation = _V3_STEM_CHANNELS, 2, 1
        for unit in _V3_UNITS:
            stride = unit.stride
            if current_stride * stride > _OUTPUT_STRIDE:
                stride, dilation = 1, dilation * stride
            current_stride *= stride
            self.units.append(
                _InvertedResidual(
                    width,
                    unit.hidden,
                    unit.channels,
                    unit.kernel_size,
                    stride,
                    dilation,
                    nn.Hardswish if unit.has_hard_swish else nn.ReLU,
                    unit.has_squeeze,
                )
            )
            width = unit.channels
        self.last = conv_norm(width, _V3_LAST_CHANNELS, activation=nn.Hardswish())
        self.channels = [_V3_UNITS[2].channels, _V3_LAST_CHANNELS]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = _V3_EPS, _V3_MOMENTUM
        _initialise(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, X, Y) -> the map of the third unit at a quarter and the last one at a sixteenth."""
        x = self.stem(x)
        maps = []
        for unit in self.units:
            x = unit(x)
            maps.append(x)
        return [maps[2], self.last(x)]


def _to_multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, halves up, but not more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def _initialise(network: nn.Module) -> None:
    """Kaiming normal by the outputs, as torchvision does; biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
