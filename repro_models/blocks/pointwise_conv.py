"""Convolution of side 1 that leaves the layout of its input as it is.

The numbers are torch's. One thread on the CPU would bring an input in channels last to channels first and compute by a
slow kernel, and so would its gradient; here it is what it is, a product with a matrix.

Shapes:
    B batch, C channels, *s voxels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class PointwiseConv2d(nn.Conv2d):
    """(B, in_channels, X, Y) -> (B, out_channels, X, Y), with the parameters of a `torch.nn.Conv2d` of side 1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return _product(x, self) if _is_channels_last_on_cpu(x) else super().forward(x)


class PointwiseConv3d(nn.Conv3d):
    """(B, in_channels, X, Y, Z) -> (B, out_channels, X, Y, Z), with the parameters of a `torch.nn.Conv3d` of side 1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return _product(x, self) if _is_channels_last_on_cpu(x) else super().forward(x)


class StridedPointwiseConv2d(nn.Conv2d):
    """(B, in_channels, X, Y) -> (B, out_channels, X / stride, Y / stride), rounded up; no bias.

    Takes the pixels it needs first. The gradient of torch 2.15's own (oneDNN 3.13, channels last, 4 channels of 8x8
    pixels in, 8 channels out) writes beyond its memory.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return functional.conv2d(every(x, self.stride[0]), self.weight)


def every(x: Tensor, stride: int) -> Tensor:
    """(B, C, X, Y) -> (B, C, X / stride, Y / stride), rounded up: each `stride`-th pixel along both axes."""
    return x[:, :, ::stride, ::stride]


POINTWISE_CONV: dict[int, type[nn.Module]] = {2: PointwiseConv2d, 3: PointwiseConv3d}
"""By the number of spatial dimensions."""


def _is_channels_last_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def _product(x: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    return functional.linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)
