"""A Mamba layer between pointwise convolutions, and the residual units of 3D convolutions beside it.

Source: nnMamba (Gong et al., 2024, arXiv 2402.03526), MIC ("Mamba in convolution") of MICCSS, in the authors' form.

Shapes:
    B batch, C channels, X Y Z voxels (*s all of them), L steps (voxels of a map in order).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional


def conv_norm_3d(
    in_channels: int, out_channels: int, kernel_size: int = 3, *, stride: int = 1, has_bias: bool = False
) -> nn.Sequential:
    """(B, in_channels, *s) -> (B, out_channels, *s / stride), rounded up; the kernel's side is odd."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=has_bias),
        nn.BatchNorm3d(out_channels),
    )


def halving_stem(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions, the first of which halves: (B, in_channels, *s) -> (B, out_channels, *s / 2), rounded up."""
    return nn.Sequential(
        conv_norm_3d(in_channels, out_channels, stride=2, has_bias=True),
        nn.ReLU(inplace=True),
        conv_norm_3d(out_channels, out_channels, has_bias=True),
        nn.ReLU(inplace=True),
    )


class MambaInConvolution(nn.Module):
    """All voxels as one sequence, mixed, between two pointwise convolutions: (B, C, X, Y, Z) -> the same shape.

    Args:
        channels: C.
        make_mixer: of C, gives a module (B, L, C) -> (B, L, C); what it returns is added to its input.
    """

    def __init__(self, channels: int, make_mixer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.entry = nn.Sequential(conv_norm_3d(channels, channels, 1), nn.ReLU(inplace=True))
        self.mixer = make_mixer(channels)
        self.exit = nn.Sequential(conv_norm_3d(channels, channels, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Mix all voxels; none is negative behind it."""
        x = self.entry(x)
        mixed = self.mixer(x.flatten(2).transpose(1, 2))
        return self.exit(x + mixed.transpose(1, 2).reshape(x.shape))


class ResidualUnit(nn.Module):
    """Two convolutions: (B, in_channels, *s) -> (B, out_channels, *s), halved and rounded up where channels change."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stride = 1 if in_channels == out_channels else 2
        self.residual = nn.Sequential(
            conv_norm_3d(in_channels, out_channels, stride=self.stride),
            nn.ReLU(inplace=True),
            conv_norm_3d(out_channels, out_channels),
        )
        self.shortcut = nn.Identity() if self.stride == 1 else conv_norm_3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`context`, of the result's shape, joins the residual."""
        residual = self.residual(x) if context is None else self.residual(x) + context
        # Not by the convolution's stride, whose gradient writes beyond its memory in 2D (`StridedPointwiseConv2d`).
        step = self.stride
        return functional.relu(residual + self.shortcut(x[:, :, ::step, ::step, ::step]))
