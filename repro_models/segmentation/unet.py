"""U-Net (Ronneberger et al., 2015, arXiv 1505.04597).

Figure 1: five resolutions, two convolutions and ReLUs at each; an up-convolution halves the channels, and what it gives
is joined, from the right, to the map of the contracting path.

Differs:
    - Padded convolutions, so that logits have the size of the image; `Config(is_padded=False)` restores the paper,
      whose output is 184 pixels shorter on every axis. The paper's overlap-tile strategy for large images stands in
      `pipelines/inference/overlap_tile.py`; padded, the sliding window of every other network serves.
    - Three dimensions too, as in MONAI's `BasicUNet`. That has instance normalisation, leaky ReLU and, in its usual
      sizes, a last up-convolution that keeps its channels: `norm`, `negative_slope` and `keeps_top_channels`.
    - Dropout stands after the last level of the contracting path ("at the end", says the paper) with the probability of
      0.5 that its released model is remembered to have.
Shapes:
    B batch, C channels, X Y (Z) pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from repro_models.blocks.fan_in_init import init_by_fan_in
from repro_models.blocks.pointwise_conv import POINTWISE_CONV
from repro_models.blocks.residual_conv_block import TRANSPOSED_CONV
from repro_models.blocks.two_convs import TwoConvs, check_norm
from repro_models.blocks.valid_convolutions import PaddedOrValidSides, centre, smallest_valid_side
from repro_models.contract import Paper, Problem, Range, Variant

PAPER = Paper(
    title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
    year=2015,
    address="https://arxiv.org/abs/1505.04597",
)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's but for the padding.

    Attributes:
        features: channels of each level, the finest first.
        is_padded: the output has the size of the input; False: unpadded convolutions as in the paper.
        dropout_probability: of each value of the lowest level.
        norm: None as in the paper, "batch" or "instance".
        negative_slope: of the ReLU.
        keeps_top_channels: the last up-convolution does not halve the channels (MONAI's).
    """

    features: tuple[int, ...] = (64, 128, 256, 512, 1024)
    is_padded: bool = True
    dropout_probability: float = 0.5
    norm: str | None = None
    negative_slope: float = 0.0
    keeps_top_channels: bool = False


_MONAI = Config(norm="instance", negative_slope=0.1, dropout_probability=0.0, keeps_top_channels=True)

VARIANTS = {
    "paper": Variant(
        Config(is_padded=False),
        Problem(spatial_dims=2, in_channels=1, num_classes=2),
        31_030_658,
        "counted in a transcription of figure 1",
        size=(572, 572),
        num_macs=150_428_424_448,
    ),
    "padded": Variant(Config(), Problem(2, 1, 2), 31_030_658, "padding has no parameters"),
    "keras": Variant(
        Config(features=(32, 64, 128, 256, 512)),
        Problem(2, 1, 1),
        7_759_521,
        "the baseline of U-Net++, printed in its authors' code",
    ),
    "keras_wide": Variant(
        Config(features=(35, 70, 140, 280, 560)),
        Problem(2, 1, 1),
        9_282_246,
        "the wide baseline of U-Net++, printed in its authors' code",
    ),
    "monai": Variant(_MONAI, Problem(2, 1, 2), 31_112_130, "MONAI 1.6.1, BasicUNet at the paper's channels"),
    "reference_small": Variant(
        Config(features=(8, 16, 32, 64, 128), is_padded=False),
        Problem(2, 1, 2),
        485_682,
        "counted in a transcription of figure 1",
    ),
    "small": Variant(Config(features=(8, 16, 32, 64, 128)), Problem(2, 1, 2), 485_682, "padding has no parameters"),
    "tiny": Variant(Config(features=(4, 8, 16)), Problem(2, 1, 3), None, "ours"),
}

SEARCH_SPACE = {"dropout_probability": Range(0.0, 0.5)}


def _divisor(config: Config) -> int:
    return 2 ** (len(config.features) - 1)


def _smallest_side(config: Config) -> int:
    if not config.is_padded:
        return smallest_valid_side(len(config.features))
    # A normalisation cannot train on one pixel.
    return _divisor(config) * (1 if config.norm is None else 2)


CONSTRAINTS = PaddedOrValidSides(spatial_dims=(2, 3), divisor=_divisor, smallest_side=_smallest_side)


class UNet(nn.Module):
    """Contracting and expanding path.

    Args:
        config: size and form.
        problem: dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims, features = problem.spatial_dims, config.features

        def two_convs(in_channels: int, width: int) -> nn.Module:
            channels = (in_channels, width, width)
            return TwoConvs(dims, channels, config.norm, config.is_padded, config.negative_slope)

        self.config = config
        self.contracting = nn.ModuleList(
            two_convs(in_channels, width)
            for in_channels, width in zip([problem.in_channels, *features], features, strict=False)
        )
        self.pool = nn.MaxPool2d(2) if dims == 2 else nn.MaxPool3d(2)
        self.dropout = nn.Dropout(config.dropout_probability)
        # Both lists of the expanding path run from the coarsest level to the finest.
        self.upsampling, self.expanding = nn.ModuleList(), nn.ModuleList()
        for level, (fine, coarse) in reversed(list(enumerate(pairwise(features)))):
            upsampled = coarse if config.keeps_top_channels and level == 0 else fine
            self.upsampling.append(TRANSPOSED_CONV[dims](coarse, upsampled, 2, stride=2))
            self.expanding.append(two_convs(fine + upsampled, fine))
        self.head = POINTWISE_CONV[dims](features[0], problem.num_classes)
        init_by_fan_in(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y) or (B, C, X, Y, Z).

        Returns:
            (B, K, X, Y) or (B, K, X, Y, Z); without padding, the logits of the centre: in the paper's size 184 fewer on
            every axis.

        Raises:
            IllegalSizeError: padded, a side is no multiple of 16 (five levels); else it is none of 188, 204, 220, ...
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        skips: list[Tensor] = []
        for level in self.contracting:
            x = level(x if not skips else self.pool(x))
            skips.append(x)
        x = self.dropout(skips.pop())
        for upsample, level in zip(self.upsampling, self.expanding, strict=True):
            x = upsample(x)
            x = level(torch.cat([centre(skips.pop(), x.shape[2:]), x], dim=1))
        return self.head(x)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights, as in the paper from a normal of variance 2 over incoming values; biases 0.

    Raises:
        ValueError: `config.norm` is unknown, there is one level only, or no such dimensions.
    """
    check_norm(config.norm)
    if problem.spatial_dims not in CONSTRAINTS.spatial_dims:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: U-Net serves 2 and 3")
    if len(config.features) < 2:
        raise ValueError(f"features={config.features}: must be the channels of two levels or more")
    return UNet(config, problem)
