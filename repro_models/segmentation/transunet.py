"""TransUNet (Chen et al., 2021, arXiv 2102.04306).

Figure 1: three stages of a ResNet-50, a vision transformer over the map at 1/16, and a decoder of four doublings with
skip connections from the ResNet (section 3.2, "CNN-Transformer Hybrid" and "Cascaded Upsampler").

Differs:
    - Weights start fresh; the paper's encoder is trained on ImageNet-21k first.
    - Details that the paper leaves open are the authors' code's: two convolutions with batch normalisation in every
      step of the decoder; a max-pooling without padding, and zeros after the last row and column of the skip connection
      at 1/4.
    - The authors' code turns an image of one channel into three equal ones; here the first convolution takes the
      channels there are.
    - Skip connections are counted by `num_skips` alone; the authors' code changes a shared list of channels in place.
    - Layers of the transformer start as `repro_models/blocks/vision_transformer.py` says, convolutions by torch's
      default.
Shapes:
    B batch, C channels, X Y pixels, K classes, T tokens (one per 16 x 16 pixels), E hidden size, W width of the ResNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.conv_norm import conv_norm_relu
from repro_models.blocks.image_size import OneImageSize, sides_of
from repro_models.blocks.pointwise_conv import every
from repro_models.blocks.vision_transformer import LAYER_NORM_EPSILON, VisionTransformer, check_heads, tokens_as_map
from repro_models.contract import Paper, Problem, Range, Variant

PAPER = Paper(
    title="TransUNet: Transformers Make Strong Encoders for Medical Image Segmentation",
    year=2021,
    address="https://arxiv.org/abs/2102.04306",
    reference_code="https://github.com/Beckschen/TransUNet",
)

_TOKEN_SIDE = 16
_NUM_GROUPS = 32
_GROUP_NORM_EPSILON = 1e-6
_STANDARDISATION_EPSILON = 1e-5


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's R50-ViT-B/16.

    Attributes:
        image_size: sides of the images it takes, all others are refused, because each token has a position of its own;
            an int serves both axes. Planning sets it to the patch (`with_patch_size`).
        resnet_depths: units of each of the three stages; none: no ResNet, the transformer reads the image.
        resnet_width: W, a multiple of 32; maps have W, 4 W, 8 W and 16 W channels.
        hidden_size: E, a multiple of `num_heads`.
        mlp_size: hidden units of the two-layer perceptron of a block.
        num_heads: of every block.
        num_blocks: transformer blocks.
        bottleneck_channels: channels to which the decoder brings the hidden state.
        decoder_channels: of the four steps, from coarse to fine.
        num_skips: skip connections at 1/8, 1/4 and 1/2, the coarsest first; 0 without a ResNet.
        dropout: probability of embedded tokens and in the perceptrons.
    """

    image_size: int | Sequence[int] = 224
    resnet_depths: tuple[int, ...] = (3, 4, 9)
    resnet_width: int = 64
    hidden_size: int = 768
    mlp_size: int = 3072
    num_heads: int = 12
    num_blocks: int = 12
    bottleneck_channels: int = 512
    decoder_channels: tuple[int, int, int, int] = (256, 128, 64, 16)
    num_skips: int = 3
    dropout: float = 0.1


def with_patch_size(config: Config, patch_size: Sequence[int]) -> Config:
    """`config` for images of `patch_size` pixels."""
    return replace(config, image_size=tuple(patch_size))


_SYNAPSE = Problem(spatial_dims=2, in_channels=3, num_classes=9)
_COUNTED = "counted in the authors' code"
VARIANTS = {
    "paper": Variant(Config(), _SYNAPSE, 105_277_081, _COUNTED, (224, 224), 29_225_730_048),
    "acdc": Variant(Config(), Problem(2, 3, 4), 105_276_356, _COUNTED),
    "image_512": Variant(Config(image_size=512), _SYNAPSE, 105_912_985, _COUNTED),
    "no_skips": Variant(Config(num_skips=0), _SYNAPSE, 103_765_657, _COUNTED),
    "vit_only": Variant(
        Config(resnet_depths=(), num_skips=0), _SYNAPSE, 91_674_201, _COUNTED, (224, 224), 22_969_368_576
    ),
    "reference_small": Variant(
        Config(
            image_size=64,
            resnet_depths=(1, 1, 2),
            resnet_width=32,
            hidden_size=96,
            mlp_size=192,
            num_heads=4,
            num_blocks=2,
            decoder_channels=(64, 32, 16, 8),
        ),
        Problem(2, 3, 3),
        1_980_411,
        _COUNTED,
    ),
    "small": Variant(
        Config(
            image_size=64,
            resnet_depths=(1, 1, 2),
            resnet_width=32,
            hidden_size=96,
            mlp_size=192,
            num_heads=4,
            num_blocks=4,
            bottleneck_channels=128,
            decoder_channels=(64, 32, 16, 8),
        ),
        Problem(2, 1, 5),
        None,
        "ours",
    ),
    "tiny": Variant(
        Config(
            image_size=32,
            resnet_depths=(1, 1, 1),
            resnet_width=32,
            hidden_size=16,
            mlp_size=32,
            num_heads=2,
            num_blocks=2,
            bottleneck_channels=16,
            decoder_channels=(8, 8, 4, 4),
        ),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"dropout": Range(0.0, 0.3)}

# Two tokens a side at least: normalisation cannot train on one.
CONSTRAINTS = OneImageSize(
    spatial_dims=(2,), divisor=lambda config: _TOKEN_SIDE, smallest_side=lambda config: 2 * _TOKEN_SIDE
)


class _StandardisedConv(nn.Conv2d):
    """Convolution without bias whose filters have mean 0 and variance 1 each: (B, C, X, Y) -> (B, C', X', Y')."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) / torch.sqrt(variance + _STANDARDISATION_EPSILON)
        if self.kernel_size == (1, 1):
            return functional.conv2d(every(x, self.stride[0]), weight)
        return functional.conv2d(x, weight, None, self.stride, self.padding)


def _conv_and_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        _StandardisedConv(in_channels, out_channels, kernel_size, stride),
        nn.GroupNorm(_NUM_GROUPS, out_channels, eps=_GROUP_NORM_EPSILON),
    )


class _Bottleneck(nn.Module):
    """Residual unit: (B, in_channels, X, Y) -> (B, 4 width, X / stride, Y / stride).

    Where the shape changes, the shortcut has a convolution, and a normalisation of each channel by itself.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.reduction = _conv_and_norm(in_channels, width, 1)
        self.conv = _conv_and_norm(width, width, 3, stride)
        self.expansion = _conv_and_norm(width, out_channels, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                _StandardisedConv(in_channels, out_channels, 1, stride), nn.GroupNorm(out_channels, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.reduction(x))
        y = functional.relu(self.conv(y))
        return functional.relu(self.shortcut(x) + self.expansion(y))


class _ResNet(nn.Module):
    """Stem and three stages, whose sides are 1/2, 1/4, 1/8 and 1/16 and whose channels W, 4 W, 8 W and 16 W."""

    def __init__(self, in_channels: int, depths: Sequence[int], width: int) -> None:
        super().__init__()
        self.channels = (width, 4 * width, 8 * width, 16 * width)
        self.stem = _conv_and_norm(in_channels, width, 7, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    _Bottleneck(before if unit == 0 else after, after // 4, stride=2 if unit == 0 and number > 0 else 1)
                    for unit in range(depth)
                )
            )
            for number, (depth, (before, after)) in enumerate(zip(depths, pairwise(self.channels), strict=True))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, X, Y) -> the maps, from fine to coarse."""
        first, second, third = self.stages
        stem = functional.relu(self.stem(x))
        quarter = first(functional.max_pool2d(stem, 3, stride=2))
        eighth = second(quarter)
        # Without padding the pooled map has a row and a column less than a quarter of the image; the next does not.
        return [stem, functional.pad(quarter, (0, 1, 0, 1)), eighth, third(eighth)]


class _DecoderStep(nn.Module):
    """Double the sides, append the skip connection if there is one, convolve twice."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsampling = nn.UpsamplingBilinear2d(scale_factor=2)  # corners of both maps are at the same places
        self.convs = nn.Sequential(
            conv_norm_relu(in_channels + skip_channels, out_channels, 3), conv_norm_relu(out_channels, out_channels, 3)
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.upsampling(x)
        return self.convs(x if skip is None else torch.cat([x, skip], dim=1))


class TransUNet(nn.Module):
    """ResNet, transformer and cascaded upsampler.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        self.config = config
        self.grid = tuple(side // _TOKEN_SIDE for side in sides_of(config.image_size, 2))
        self.resnet = None
        in_channels, token_side = problem.in_channels, _TOKEN_SIDE
        skip_channels = [0] * 4
        if config.resnet_depths:
            self.resnet = _ResNet(problem.in_channels, config.resnet_depths, config.resnet_width)
            *finer, in_channels = self.resnet.channels
            token_side = 1
            skip_channels[: config.num_skips] = finer[::-1][: config.num_skips]
        self.transformer = VisionTransformer(
            2,
            in_channels,
            self.grid,
            token_side,
            config.hidden_size,
            config.mlp_size,
            config.num_heads,
            config.num_blocks,
            dropout=config.dropout,
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPSILON)
        self.bottleneck = conv_norm_relu(config.hidden_size, config.bottleneck_channels, 3)
        widths = [config.bottleneck_channels, *config.decoder_channels]
        self.decoder = nn.ModuleList(
            _DecoderStep(coarse, skip, fine)
            for (coarse, fine), skip in zip(pairwise(widths), skip_channels, strict=True)
        )
        self.head = nn.Conv2d(widths[-1], problem.num_classes, 3, padding=1)

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
        skips: list[Tensor] = []
        if self.resnet is not None:
            *skips, x = self.resnet(x)
        tokens = self.norm(self.transformer(x, {self.config.num_blocks})[0])
        y = self.bottleneck(tokens_as_map(tokens, self.grid))
        for number, step in enumerate(self.decoder):
            y = step(y, skips[-1 - number] if number < self.config.num_skips else None)
        return self.head(y)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, heads do not divide the hidden size, the ResNet has another number of stages
            than three (or none) or a width that 32 groups cannot share, the decoder has not four steps, or skip
            connections have no maps.
        IllegalSizeError: a side of `image_size` is no multiple of 16, or below 32.
    """
    if problem.spatial_dims != 2:
        raise ValueError(
            f"spatial_dims={problem.spatial_dims}: TransUNet serves 2; take segmentation/unetr or set "
            "configuration: 2d for slices"
        )
    check_heads(config.hidden_size, config.num_heads)
    if len(config.resnet_depths) not in (0, 3) or any(depth < 1 for depth in config.resnet_depths):
        raise ValueError(
            f"resnet_depths={config.resnet_depths}: give three numbers of units, 1 at least, or () for no ResNet"
        )
    if config.resnet_width < _NUM_GROUPS or config.resnet_width % _NUM_GROUPS:
        raise ValueError(
            f"resnet_width={config.resnet_width}: must be a multiple of {_NUM_GROUPS}, the groups of norms"
        )
    if len(config.decoder_channels) != 4:
        raise ValueError(f"decoder_channels={config.decoder_channels}: give four, one for each doubling from 1/16 to 1")
    most = len(config.resnet_depths)
    if not 0 <= config.num_skips <= most:
        raise ValueError(f"num_skips={config.num_skips}: must be 0 to {most}, the maps of the ResNet")
    CONSTRAINTS.check_config(config, problem.spatial_dims)
    return TransUNet(config, problem)
