"""nnMamba (Gong et al., 2024, arXiv 2402.03526).

The form for segmentation: a residual convolutional encoder whose later units hear a Mamba layer (MICCSS, Mamba in
convolution with channel-spatial siamese learning), and a decoder whose skip connections are scaled channel by channel.

Differs:
    - Logits may be negative. The authors' network ends in batch normalisation and ReLU; here it ends in the
      normalisation, so parameters and weights are theirs. `Config(has_activated_logits=True)` restores the ReLU.
    - The authors publish 15.55 million parameters; their code has 15,944,958 for 6 classes and 15,959,598 for 16.
    - A scale has one hidden unit at least; the authors' code wants 16 features or more for it.
Shapes:
    B batch, C channels, X Y Z voxels, K classes, L steps (voxels of a map in order), F base features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.mamba_in_convolution import MambaInConvolution, ResidualUnit, conv_norm_3d, halving_stem
from repro_models.blocks.mamba_mixer import MambaMixer, StateSpace, rank_of_steps
from repro_models.blocks.two_convs import TwoConvs
from repro_models.contract import Constraints, Paper, Problem, Variant

PAPER = Paper(
    title=("nnMamba: 3D Biomedical Image Segmentation, Classification and Landmark Detection with State Space Model"),
    year=2024,
    address="https://arxiv.org/abs/2402.03526",
    reference_code="https://github.com/lhaof/nnMamba",
)

_DIMS = 3
# Channels per hidden unit of a skip connection's scale.
_SQUEEZE = 16


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are those of the authors' code.

    Attributes:
        base_features: F, of the map at 1/2; each coarser one has twice as many.
        num_stages: of the encoder, each halves.
        num_units: residual units of a stage, two or more: the first halves, the others hear the stage's Mamba layer.
        num_states: states of an inner channel.
        kernel_size: steps that the convolution before a scan sees.
        expand: inner channels of the Mamba layer, as a multiple of the stage's.
        has_activated_logits: logits pass a ReLU.
    """

    base_features: int = 32
    num_stages: int = 3
    num_units: int = 3
    num_states: int = 16
    kernel_size: int = 4
    expand: int = 2
    has_activated_logits: bool = False


_MEASURED = "counted in the authors' code"
VARIANTS = {
    "paper": Variant(Config(), Problem(spatial_dims=3, in_channels=4, num_classes=4), 15_945_270, _MEASURED),
    "class_default": Variant(Config(), Problem(3, 1, 6), 15_944_958, _MEASURED),
    "amos": Variant(Config(), Problem(3, 1, 16), 15_959_598, f"{_MEASURED}; its README says 15.55 million"),
    "reference_small": Variant(
        Config(base_features=16, num_units=2, has_activated_logits=True), Problem(3, 2, 3), 2_839_564, _MEASURED
    ),
    "small": Variant(Config(base_features=16, num_units=2), Problem(3, 1, 3), None, "ours"),
    "tiny": Variant(
        Config(base_features=4, num_stages=2, num_units=3, num_states=2, kernel_size=2, expand=1),
        Problem(3, 1, 3),
        None,
        "ours",
    ),
}


def _divisor(config: Config) -> int:
    """The stem and every stage halve."""
    return int(2 ** (config.num_stages + 1))


CONSTRAINTS = Constraints(
    spatial_dims=(_DIMS,),
    divisor=_divisor,
    # Batch normalisation cannot train on the one voxel of a batch of one.
    smallest_side=lambda config: 2 * _divisor(config),
)


class _BothWays(nn.Module):
    """Sum of the scans of one state space from both ends: (B, L, E) -> (B, L, E)."""

    def __init__(self, space: StateSpace) -> None:
        super().__init__()
        self.space = space

    def forward(self, x: Tensor) -> Tensor:
        return self.space(x) + self.space(x, is_reversed=True)


class SiameseMixer(nn.Module):
    """CSS of MICCSS: mean of one Mamba block's outputs for four orders; (B, L, C) -> (B, L, C).

    The orders: as it is, with the channels flipped, with the steps flipped, both.

    Args:
        channels: C.
        num_states: of an inner channel.
        kernel_size: of the convolution before the scan.
        expand: inner channels, as a multiple of C.
    """

    def __init__(self, channels: int, num_states: int, kernel_size: int, expand: int) -> None:
        super().__init__()
        inner = expand * channels
        self.block = MambaMixer(
            channels, inner, _BothWays(StateSpace(inner, num_states, kernel_size, rank_of_steps(channels)))
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the steps."""
        # Flipped steps share all but the scan with those in order, which may so be added before the last projection.
        plain, flipped = self.block(torch.cat([tokens, tokens.flip(2)])).chunk(2)
        return (plain + flipped.flip(2)) / 4


class _Stage(nn.Module):
    """Residual units, of which all but the first share a Mamba layer: (B, C, *s) -> (B, 2 C, *s / 2)."""

    def __init__(self, channels: int, config: Config) -> None:
        super().__init__()
        width = 2 * channels
        self.first = ResidualUnit(channels, width)
        self.mamba = MambaInConvolution(
            width,
            partial(SiameseMixer, num_states=config.num_states, kernel_size=config.kernel_size, expand=config.expand),
        )
        self.others = nn.ModuleList(ResidualUnit(width, width) for _ in range(config.num_units - 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for unit in self.others:
            x = unit(x, self.mamba(x))
        return x


class ChannelScale(nn.Module):
    """Each channel times a number between 0 and 1 that the means of all decide: (B, C, *s) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _SQUEEZE)
        self.scale = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale."""
        return x * self.scale(x.mean((2, 3, 4)))[:, :, None, None, None]


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="trilinear")


class NnMamba(nn.Module):
    """Encoder that begins at 1/2, decoder with scaled skip connections.

    Args:
        config: size and form.
        problem: channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        features, classes = config.base_features, problem.num_classes
        widths = [features * 2**level for level in range(config.num_stages + 1)]
        self.stem = halving_stem(problem.in_channels, features)
        self.stages = nn.ModuleList(_Stage(width, config) for width in widths[:-1])
        self.scales = nn.ModuleList(ChannelScale(width) for width in widths[:-1])
        self.decoder = nn.ModuleList(TwoConvs(_DIMS, (3 * width, width, width), "batch") for width in widths[:-1])
        self.head = nn.Sequential(
            conv_norm_3d(features, classes, has_bias=True),
            nn.ReLU(inplace=True),
            conv_norm_3d(classes, classes, has_bias=True),
            nn.ReLU(inplace=True) if config.has_activated_logits else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y, Z).

        Returns:
            (B, K, X, Y, Z).

        Raises:
            IllegalSizeError: a side that does not halve at every level, or is too small.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        x = self.stem(x)
        skips = []
        for stage, scale in zip(self.stages, self.scales, strict=True):
            skips.append(scale(x))
            x = stage(x)
        for convs, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            x = convs(torch.cat([_doubled(x), skip], dim=1))
        return self.head(_doubled(x))


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: two dimensions, no stage, or stages without a unit that hears the Mamba layer.
    """
    if problem.spatial_dims != _DIMS:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: nnMamba serves 3; take segmentation/swin_unet for 2D")
    if config.num_stages < 1:
        raise ValueError(f"num_stages={config.num_stages}: must be at least 1")
    if config.num_units < 2:
        raise ValueError(
            f"num_units={config.num_units}: must be at least 2, because the first of a stage has no Mamba layer"
        )
    return NnMamba(config, problem)
