"""ScaleFormer (Huang et al., 2022, arXiv 2207.14552).

Figure 3: a convolutional encoder; beside it, on its four coarser maps, transformer blocks whose attention works along
rows and columns (intra-scale); then a transformer block over all tokens that four scales have of one place
(inter-scale); a convolutional decoder.

Differs:
    - The output of the dual-axis attention keeps its tokens. The authors' code reads the table of tokens and channels
      as one of channels and tokens; `Config(has_scrambled_tokens=True)` restores it.
    - The inter-scale attention divides its scores by the root of the channels of a head. The authors' code computes
      that factor and leaves it out; `Config(has_scaled_inter_attention=False)` restores it.
    - Position biases start at 0. The authors' code leaves them as the memory was, with NaN at times.
    - Images of any legal size, for which a network is built; the authors' code is built for 224 x 224. An image has its
      own number of channels; the authors' code repeats a grey one three times.
    - All other weights start by torch's default, as in the authors' code, from nothing.
Shapes:
    B batch, C channels, X Y pixels, K classes, F base features, H heads, N tokens. The scales have 4, 8, 16 and 16 F
    channels and sides of 1/4, 1/8, 1/16 and 1/32 of the image's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.dual_axis_attention import DualAxisAttention
from repro_models.contract import Constraints, IllegalSizeError, Paper, Problem, Range, Variant

PAPER = Paper(
    title="ScaleFormer: Revisiting the Transformer-based Backbones from a Scale-wise Perspective for Medical Image "
    "Segmentation",
    year=2022,
    address="https://arxiv.org/abs/2207.14552",
    reference_code="https://github.com/ZJUGiveLab/ScaleFormer",
)

_DIVISOR = 32
_MLP_RATIO = 4
_LAYER_NORM_EPS = 1e-6
# Channels of the convolutional levels at 1, 1/2, ..., 1/16, and of the four scales, as multiples of F.
_LEVEL_MULTIPLES = (1, 2, 4, 8, 16)
_SCALE_MULTIPLES = (4, 8, 16, 16)
# Side of the window of each scale that belongs to one position of the coarsest.
_WINDOWS = (8, 4, 2, 1)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's.

    Attributes:
        image_size: sides of the images it takes, all others are refused, because rows and columns have biases of their
            own; an int serves both axes. Planning sets it to the patch (`with_patch_size`).
        base_features: F; 4 F is a multiple of `num_heads`.
        depths: intra-scale blocks of each of the four scales, from fine to coarse.
        num_heads: H, of every block.
        inter_scale_features: channels of the inter-scale block, a multiple of `num_heads`.
        dropout_probability: in the perceptron of the inter-scale block.
        has_scrambled_tokens: as the authors' code, see the head of this file.
        has_scaled_inter_attention: False as the authors' code, see the head of this file.
    """

    image_size: int | Sequence[int] = 224
    base_features: int = 64
    depths: tuple[int, ...] = (2, 2, 2, 1)
    num_heads: int = 8
    inter_scale_features: int = 256
    dropout_probability: float = 0.1
    has_scrambled_tokens: bool = False
    has_scaled_inter_attention: bool = True


def with_patch_size(config: Config, patch_size: Sequence[int]) -> Config:
    """`config` for images of `patch_size` pixels."""
    return replace(config, image_size=tuple(patch_size))


_MEASURED = "counted in the authors' code"
VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(spatial_dims=2, in_channels=3, num_classes=9),
        113_817_049,
        f"{_MEASURED}; the paper gives 111.6 million",
        (224, 224),
        48_571_102_720,
    ),
    "classes_2": Variant(Config(), Problem(2, 3, 2), 113_813_010, _MEASURED),
    "small": Variant(
        Config(image_size=128, base_features=8, depths=(1, 1, 1, 1), num_heads=4, inter_scale_features=64),
        Problem(2, 1, 2),
        None,
        "ours",
    ),
    "tiny": Variant(
        Config(
            image_size=64,
            base_features=2,
            depths=(1, 1, 1, 1),
            num_heads=2,
            inter_scale_features=8,
            dropout_probability=0.0,
        ),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"dropout_probability": Range(0.0, 0.3)}


def _sides(image_size: int | Sequence[int]) -> tuple[int, ...]:
    return (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)


@dataclass(frozen=True)
class _Sides(Constraints):
    """A network takes images of its own size only."""

    def check_size(self, config: Any, size: Sequence[int]) -> None:
        """Raise `IllegalSizeError` unless `size` is the `image_size` of `config`."""
        super().check_size(config, size)
        for axis, (side, expected) in enumerate(zip(size, _sides(config.image_size), strict=True)):
            if side != expected:
                raise IllegalSizeError(
                    f"image size {tuple(size)}: side {side} of axis {axis} must be {expected}, for which this network "
                    f"has biases; cut the image into tiles, or train a network with image_size {tuple(size)}"
                )


# Batch normalisation cannot train on one pixel of the coarsest scale.
CONSTRAINTS = _Sides(spatial_dims=(2,), divisor=lambda config: _DIVISOR, smallest_side=lambda config: 2 * _DIVISOR)


def _conv_norm(in_channels: int, out_channels: int, side: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias and batch normalisation."""
    padding = side // 2 if stride == 1 else 0
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, side, stride, padding, bias=False), nn.BatchNorm2d(out_channels)
    )


class _ConvLevel(nn.Module):
    """Two convolutions, and a third of side 1 as a residual: (B, in_channels, x, y) -> (B, out_channels, x, y)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            _conv_norm(in_channels, out_channels, 3), nn.ReLU(inplace=True), _conv_norm(out_channels, out_channels, 3)
        )
        self.residual = nn.Sequential(nn.Conv2d(out_channels, out_channels, 1), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)
        return functional.relu(x + self.residual(x))


class _ConvPerceptron(nn.Module):
    """Perceptron with a convolution of each hidden channel and three normalisations: (B, x, y, c) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _MLP_RATIO * channels
        self.expansion = nn.Linear(channels, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=_LAYER_NORM_EPS) for _ in range(3))
        self.reduction = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.expansion(x)
        x = self.conv(hidden.movedim(-1, 1)).movedim(1, -1)
        for norm in self.norms:
            x = norm(x + hidden)
        return self.reduction(functional.gelu(x))


class _IntraScaleBlock(nn.Module):
    """(B, c, x, y) -> (B, c, x, y)."""

    def __init__(self, channels: int, sides: Sequence[int], config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=_LAYER_NORM_EPS)
        self.attention = DualAxisAttention(channels, config.num_heads, sides, config.has_scrambled_tokens)
        self.mlp_norm = nn.LayerNorm(channels, eps=_LAYER_NORM_EPS)
        self.mlp = _ConvPerceptron(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x.movedim(1, -1)).movedim(-1, 1))
        return x + self.mlp(self.mlp_norm(x.movedim(1, -1))).movedim(-1, 1)


class _InterScaleBlock(nn.Module):
    """Transformer block within each place: (B, places, N, c) -> the same shape."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        channels = config.inter_scale_features
        self.num_heads = config.num_heads
        self.factor = (channels // config.num_heads) ** -0.5 if config.has_scaled_inter_attention else 1.0
        self.attention_norm = nn.LayerNorm(channels, eps=_LAYER_NORM_EPS)
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)
        self.mlp_norm = nn.LayerNorm(channels, eps=_LAYER_NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(channels, _MLP_RATIO * channels),
            nn.GELU(),
            nn.Dropout(config.dropout_probability),
            nn.Linear(_MLP_RATIO * channels, channels),
            nn.Dropout(config.dropout_probability),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._attend(self.attention_norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens))

    def _attend(self, tokens: Tensor) -> Tensor:
        heads = self.query_key_value(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(3, 0, 1, 4, 2, 5).unbind(0)  # each (B, places, H, N, c / H)
        mixed = (query @ key.transpose(-2, -1) * self.factor).softmax(-1) @ value
        return self.projection(mixed.transpose(2, 3).flatten(3))


class _InterScale(nn.Module):
    """Four maps (B, c_i, x_i, y_i) -> four of the same shapes; the 85 tokens of a place see each other."""

    def __init__(self, widths: Sequence[int], config: Config) -> None:
        super().__init__()
        channels = config.inter_scale_features
        self.inward = nn.ModuleList(nn.Linear(width, channels) for width in widths)
        self.block = _InterScaleBlock(config)
        self.outward = nn.ModuleList(nn.Linear(channels, width) for width in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        size = maps[-1].shape[2:]
        tokens = [
            layer(x.movedim(1, -1))
            .unflatten(2, (size[1], window))
            .unflatten(1, (size[0], window))
            .transpose(2, 3)
            .flatten(3, 4)
            .flatten(1, 2)
            for layer, x, window in zip(self.inward, maps, _WINDOWS, strict=True)
        ]
        mixed = self.block(torch.cat(tokens, dim=2)).split([window**2 for window in _WINDOWS], dim=2)
        return [
            layer(
                x.unflatten(2, (window, window)).unflatten(1, size).transpose(2, 3).flatten(3, 4).flatten(1, 2)
            ).movedim(-1, 1)
            for layer, x, window in zip(self.outward, mixed, _WINDOWS, strict=True)
        ]


class _DecoderStep(nn.Module):
    """Double the sides, append the skip connection if there is one, convolve twice."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            _conv_norm(in_channels, out_channels, 3),
            nn.ReLU(inplace=True),
            _conv_norm(out_channels, out_channels, 3),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        size = [2 * side for side in x.shape[2:]]
        x = functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
        return self.convs(x if skip is None else torch.cat([x, skip], dim=1))


class ScaleFormer(nn.Module):
    """Convolutional and transformer encoders side by side, exchange between scales, decoder of five steps.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        levels = [config.base_features * multiple for multiple in _LEVEL_MULTIPLES]
        scales = [config.base_features * multiple for multiple in _SCALE_MULTIPLES]
        sides = _sides(config.image_size)
        self.config = config
        self.conv_levels = nn.ModuleList(_ConvLevel(*pair) for pair in pairwise([problem.in_channels, *levels]))
        self.pool = nn.MaxPool2d(2)
        self.intra_scale = nn.ModuleList(
            nn.Sequential(
                *(
                    _IntraScaleBlock(width, [side // (_DIVISOR // window) for side in sides], config)
                    for _ in range(depth)
                )
            )
            for width, window, depth in zip(scales, _WINDOWS, config.depths, strict=True)
        )
        # A scale's tokens go down with twice their channels and meet the convolutional map of the next scale.
        self.halvings = nn.ModuleList(
            nn.Sequential(_conv_norm(width, 2 * width, 2, stride=2), nn.ReLU(inplace=True)) for width in scales[:-1]
        )
        self.joins = nn.ModuleList(nn.Conv2d(2 * fine + width, width, 1) for fine, width in pairwise(scales))
        self.inter_scale = _InterScale(scales, config)
        self.fusions = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for width in scales)
        # From fine to coarse, at 1/2 to 1/16 of the sides.
        self.decoder = nn.ModuleList(_DecoderStep(2 * width, fine) for fine, width in pairwise(levels))
        self.last_step = _DecoderStep(levels[0], levels[0])
        self.head = nn.Conv2d(levels[0], problem.num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, *image_size).

        Returns:
            (B, K, *image_size).

        Raises:
            IllegalSizeError: the image does not have the sides `image_size`.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        features = []
        for level in self.conv_levels:
            features.append(level(x))
            x = self.pool(features[-1])
        half, *locals_ = features[1:]
        locals_.append(x)
        tokens = [self.intra_scale[0](locals_[0])]
        for blocks, halving, join, local in zip(
            self.intra_scale[1:], self.halvings, self.joins, locals_[1:], strict=True
        ):
            tokens.append(blocks(join(torch.cat([local, halving(tokens[-1])], dim=1))))
        fused = [
            fusion(torch.cat([scale, local], dim=1))
            for fusion, scale, local in zip(self.fusions, self.inter_scale(tokens), locals_, strict=True)
        ]
        *skips, y = [half, *fused]
        for step, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            y = step(y, skip)
        return self.head(self.last_step(y))


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, heads that do not share the channels evenly, not four depths, or a
            probability that is none.
        IllegalSizeError: a side of `image_size` is no multiple of 32, or under 64.
    """
    if problem.spatial_dims != 2:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: ScaleFormer serves 2; take segmentation/unetr for 3D")
    finest = _SCALE_MULTIPLES[0] * config.base_features
    for name, channels in (("base_features", finest), ("inter_scale_features", config.inter_scale_features)):
        if channels % config.num_heads:
            raise ValueError(
                f"{name}={getattr(config, name)}: num_heads={config.num_heads} cannot share {channels} channels "
                "evenly; change one of them"
            )
    if len(config.depths) != len(_SCALE_MULTIPLES) or min(config.depths) < 1:
        raise ValueError(f"depths={config.depths}: give {len(_SCALE_MULTIPLES)} numbers from 1, one per scale")
    if not 0 <= config.dropout_probability < 1:
        raise ValueError(f"dropout_probability={config.dropout_probability}: must be from 0 to less than 1")
    sides = _sides(config.image_size)
    if len(sides) != 2:
        raise ValueError(f"image_size={config.image_size}: has {len(sides)} sides; give one int, or 2 of them")
    CONSTRAINTS.check_size(config, sides)
    return ScaleFormer(config, problem)
