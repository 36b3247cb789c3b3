"""SegMamba (Xing et al., 2024, arXiv 2401.13560).

Figure 1: an encoder of Mamba layers over whole volumes, a convolutional decoder of UNETR's blocks. A layer reads its
volume in three orders (tri-orientated Mamba, ToM): voxel by voxel from the first to the last, from the last to the
first, and across the slices.

Differs:
    - A map has as many slices as its first axis has voxels. The authors' code cuts its sequence into 64, 32, 16 and 8
      runs whatever the size, which are slices where the image has 128 of them, as their patch has. At other sizes the
      third order jumps by something else than a slice, or the sequence cannot be cut at all;
      `Config(num_slices=(64, 32, 16, 8))` restores that, and refuses what cannot be cut.
    - The gated convolution adds its two branches, and sides halve four times, as in the authors' code, which their
      experiments follow (issue 1 of its repository). In the paper the branches are multiplied, as here with
      `Config(multiplies_branches=True)`, and the figure has a fifth halving.
    - The paper's estimate of uncertainty on the skip connections (FUE) is not in the authors' code, nor here.
    - Any number of features; the authors' head takes 48.
Shapes:
    B batch, C channels, X Y Z voxels, K classes, S slices, P voxels of a slice, E inner channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from repro_models.blocks.instance_norm import InstanceNorm3d
from repro_models.blocks.mamba_mixer import MambaMixer, StateSpace, rank_of_steps
from repro_models.blocks.pointwise_conv import PointwiseConv3d
from repro_models.blocks.residual_conv_block import ResidualConvBlock, UpsampleAndJoin
from repro_models.contract import Constraints, IllegalSizeError, Paper, Problem, Variant

PAPER = Paper(
    title="SegMamba: Long-range Sequential Modeling Mamba For 3D Medical Image Segmentation",
    year=2024,
    address="https://arxiv.org/abs/2401.13560",
    reference_code="https://github.com/ge-xing/SegMamba",
)

_DIMS = 3


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are those of the authors' code.

    Attributes:
        features: channels of the maps of sides 1, 1/2, 1/4, ...; stage i of the encoder, at 1 / 2^(i+1), works on
            `features[i]` and hands `features[i + 1]` to the decoder.
        depths: Mamba layers of each stage; one stage fewer than `features`.
        num_states: states of an inner channel.
        kernel_size: steps that the convolution before a scan sees.
        expand: E / C.
        num_slices: equal runs a stage's sequence is cut into, one number per stage; None: the slices of its map.
        multiplies_branches: the gated convolution multiplies its two branches; else it adds them.
    """

    features: tuple[int, ...] = (48, 96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    num_states: int = 16
    kernel_size: int = 4
    expand: int = 2
    num_slices: tuple[int, ...] | None = None
    multiplies_branches: bool = False


_MEASURED = "counted in the authors' code"
VARIANTS = {
    "paper": Variant(Config(), Problem(spatial_dims=3, in_channels=4, num_classes=4), 67_416_196, _MEASURED),
    "class_default": Variant(Config(), Problem(3, 1, 13), 67_363_213, _MEASURED),
    "reference_small": Variant(
        Config(features=(48, 56, 64, 72, 80), depths=(1, 1, 1, 1)), Problem(3, 2, 3), 3_703_187, _MEASURED
    ),
    "small": Variant(Config(features=(8, 16, 32, 64), depths=(1, 1, 1), num_states=8), Problem(3, 1, 3), None, "ours"),
    "tiny": Variant(
        Config(features=(4, 6, 8), depths=(1, 1), num_states=2, kernel_size=2, expand=1),
        Problem(3, 1, 3),
        None,
        "ours",
    ),
}


@dataclass(frozen=True)
class _Sliced(Constraints):
    """With `num_slices`, the voxels of every stage must be a multiple of its number, too."""

    def check_size(self, config: Any, size: Sequence[int]) -> None:
        super().check_size(config, size)
        for stage, num_runs in enumerate(config.num_slices or ()):
            num_voxels = math.prod(side // 2 ** (stage + 1) for side in size)
            if num_voxels % num_runs:
                step = num_runs * 2 ** (stage + 1)
                raise IllegalSizeError(
                    f"image size {tuple(size)}: stage {stage} has {num_voxels} voxels, which num_slices="
                    f"{config.num_slices} cuts into {num_runs} equal runs; take num_slices=None, or pad axis 0 to "
                    f"{-(-size[0] // step) * step}"
                )


def _divisor(config: Config) -> int:
    """Every stage halves."""
    return int(2 ** len(config.depths))


CONSTRAINTS = _Sliced(
    spatial_dims=(_DIMS,),
    divisor=_divisor,
    smallest_side=lambda config: 2 * _divisor(config),  # instance normalisation wants more than one voxel
)


def _normalised_conv(channels: int, kernel_size: int) -> nn.Sequential:
    conv = (
        PointwiseConv3d(channels, channels)
        if kernel_size == 1
        else nn.Conv3d(channels, channels, kernel_size, padding=kernel_size // 2)
    )
    return nn.Sequential(conv, InstanceNorm3d(channels), nn.ReLU(inplace=True))


class GatedSpatialConv(nn.Module):
    """Figure 2a: two branches of convolutions before a stage's sequences: (B, C, X, Y, Z) -> the same shape."""

    def __init__(self, channels: int, multiplies_branches: bool) -> None:
        super().__init__()
        self.multiplies_branches = multiplies_branches
        self.wide = nn.Sequential(_normalised_conv(channels, 3), _normalised_conv(channels, 3))
        self.narrow = _normalised_conv(channels, 1)
        self.out = _normalised_conv(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Join both branches and add them to `x`."""
        wide, narrow = self.wide(x), self.narrow(x)
        return x + self.out(wide * narrow if self.multiplies_branches else wide + narrow)


class TriOrientedScan(nn.Module):
    """Sum of three scans, each with weights of its own: (B, S, P, E) -> the same shape.

    Args:
        channels: E.
        num_states: of a channel.
        kernel_size: of the convolution before each scan.
        rank: of the step sizes.
    """

    def __init__(self, channels: int, num_states: int, kernel_size: int, rank: int) -> None:
        super().__init__()
        self.forwards = StateSpace(channels, num_states, kernel_size, rank)
        self.backwards = StateSpace(channels, num_states, kernel_size, rank)
        self.across = StateSpace(channels, num_states, kernel_size, rank)

    def forward(self, x: Tensor) -> Tensor:
        """Scan slice after slice, the same from the end, and place after place through all slices."""
        sequence = x.flatten(1, 2)
        along = self.forwards(sequence) + self.backwards(sequence, is_reversed=True)
        across = self.across(x.transpose(1, 2).flatten(1, 2))
        return along.reshape(x.shape) + across.reshape(x.transpose(1, 2).shape).transpose(1, 2)


def tri_oriented_mamba(channels: int, num_states: int = 16, kernel_size: int = 4, expand: int = 2) -> MambaMixer:
    """ToM, Mamba's block with three scans: (B, S, P, C) -> the same shape."""
    inner = expand * channels
    return MambaMixer(channels, inner, TriOrientedScan(inner, num_states, kernel_size, rank_of_steps(channels)))


def sliced(x: Tensor, num_slices: int | None) -> Tensor:
    """(B, C, X, Y, Z) -> (B, S, P, C): the voxels in their order, in `num_slices` equal runs; None: X runs."""
    return x.flatten(2).transpose(1, 2).unflatten(1, (num_slices or x.shape[2], -1))


class _MambaLayer(nn.Module):
    """(B, C, X, Y, Z) -> the same shape."""

    def __init__(self, channels: int, mixer: nn.Module, num_slices: int | None) -> None:
        super().__init__()
        self.num_slices = num_slices
        self.norm = nn.LayerNorm(channels)
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mixer(self.norm(sliced(x, self.num_slices)))
        return x + mixed.flatten(1, 2).transpose(1, 2).reshape(x.shape)


def _halving(in_channels: int, out_channels: int, is_first: bool) -> nn.Module:
    """(B, in_channels, *s) -> (B, out_channels, *s / 2)."""
    if is_first:
        return nn.Conv3d(in_channels, out_channels, 7, stride=2, padding=3)
    return nn.Sequential(InstanceNorm3d(in_channels), nn.Conv3d(in_channels, out_channels, 2, stride=2))


def _outlet(channels: int, out_channels: int) -> nn.Sequential:
    """From a stage to the decoder: (B, channels, *s) -> (B, out_channels, *s)."""
    return nn.Sequential(
        InstanceNorm3d(channels),
        PointwiseConv3d(channels, 2 * channels),
        nn.GELU(),
        PointwiseConv3d(2 * channels, channels),
        ResidualConvBlock(_DIMS, channels, out_channels),
    )


class SegMamba(nn.Module):
    """Encoder of Mamba stages and convolutional decoder.

    Args:
        config: size and form.
        problem: channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        features = config.features
        slices = config.num_slices or (None,) * len(config.depths)
        self.image_path = ResidualConvBlock(_DIMS, problem.in_channels, features[0])
        self.halvings = nn.ModuleList()
        self.stages = nn.ModuleList()
        self.outlets = nn.ModuleList()
        for stage, (depth, num_slices) in enumerate(zip(config.depths, slices, strict=True)):
            width, before = features[stage], features[stage - 1] if stage else problem.in_channels
            mixers = (
                tri_oriented_mamba(width, config.num_states, config.kernel_size, config.expand) for _ in range(depth)
            )
            self.halvings.append(_halving(before, width, is_first=stage == 0))
            self.stages.append(
                nn.Sequential(
                    GatedSpatialConv(width, config.multiplies_branches),
                    *(_MambaLayer(width, mixer, num_slices) for mixer in mixers),
                )
            )
            self.outlets.append(_outlet(width, features[stage + 1]))
        self.decoder = nn.ModuleList(UpsampleAndJoin(_DIMS, coarse, fine) for fine, coarse in pairwise(features))
        self.head = nn.Sequential(
            ResidualConvBlock(_DIMS, features[0], features[0]), PointwiseConv3d(features[0], problem.num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y, Z), slices along X.

        Returns:
            (B, K, X, Y, Z).

        Raises:
            IllegalSizeError: a side that does not halve at every stage or is too small, or slices that are not equal.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        maps = [self.image_path(x)]
        for halving, stage, outlet in zip(self.halvings, self.stages, self.outlets, strict=True):
            x = stage(halving(x))
            maps.append(outlet(x))
        y = maps.pop()
        for step, skip in zip(reversed(self.decoder), reversed(maps), strict=True):
            y = step(y, skip)
        return self.head(y)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: two dimensions, or settings of unequal numbers of stages.
    """
    if problem.spatial_dims != _DIMS:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: SegMamba serves 3; take segmentation/swin_unet for 2D")
    if len(config.features) != len(config.depths) + 1:
        raise ValueError(
            f"features={config.features} and depths={config.depths}: give one number of features more than stages"
        )
    if min(config.depths, default=0) < 1:
        raise ValueError(f"depths={config.depths}: give one stage or more, of one layer or more each")
    if config.num_slices is not None and (len(config.num_slices) != len(config.depths) or min(config.num_slices) < 1):
        raise ValueError(
            f"num_slices={config.num_slices}: give a number of 1 or more for each of the {len(config.depths)} stages, "
            "or None"
        )
    return SegMamba(config, problem)
