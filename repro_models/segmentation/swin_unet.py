"""Swin-Unet (Cao et al., 2021, arXiv 2105.05537).

Figure 1: a U-Net of Swin transformer blocks alone. The encoder merges patches, the decoder expands them; skip
connections at 1/4, 1/8 and 1/16 of the image's sides.

Differs:
    - Weights start fresh: linear layers and bias tables from a normal of deviation 0.02, biases 0; the convolutions by
      torch's default. The paper starts encoder and decoder from a Swin transformer trained on ImageNet.
    - Any legal size of image, because every window looks its bias up by offsets; the authors' code is built for one.
      Maps that are no multiple of the window are padded with zeros.
    - An image has its own number of channels; the authors' code repeats a grey one three times.
Shapes:
    B batch, C channels, X Y pixels, K classes, S stages, F base features. Level i has F * 2^i channels and sides of
    1 / (patch * 2^i); its maps are (B, x, y, F * 2^i).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro_models.blocks.drop_path import rising_probabilities
from repro_models.blocks.patch_expanding import PatchExpanding
from repro_models.blocks.patch_merging import PatchMerging
from repro_models.blocks.swin_block import SwinBlock, start_linear_layers
from repro_models.blocks.window_attention import WindowAttention
from repro_models.contract import Constraints, Paper, Problem, Range, Variant

PAPER = Paper(
    title="Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation",
    year=2021,
    address="https://arxiv.org/abs/2105.05537",
    reference_code="https://github.com/HuCaoFighting/Swin-Unet",
)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's.

    Attributes:
        base_features: F, a multiple of each level's heads once doubled to that level.
        depths: transformer blocks of each of the S levels, in the encoder and, but for the last one, in the decoder;
            every second one is shifted.
        num_heads: of each level.
        window: positions of a window along each axis.
        patch: side of the first patches.
        mlp_ratio: hidden units of the perceptron, as a multiple of the channels.
        num_skips: skip connections, 0 to S - 1; the finest first, as in the paper's ablation (section 4.5).
        drop_path_probability: that the encoder's last block is left out of a sample in training; it rises evenly from 0
            for the first block, and the decoder's blocks have that of the encoder's at their level.
    """

    base_features: int = 96
    depths: tuple[int, ...] = (2, 2, 2, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    patch: int = 4
    mlp_ratio: int = 4
    num_skips: int = 3
    drop_path_probability: float = 0.2


_MEASURED = "counted in the authors' code"
VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(spatial_dims=2, in_channels=3, num_classes=9),
        27_168_900,
        _MEASURED,
        (224, 224),
        6_109_780_992,
    ),
    "acdc": Variant(Config(), Problem(2, 3, 4), 27_168_420, _MEASURED),
    "window_8": Variant(Config(window=8), Problem(2, 3, 9), 27_176_292, f"{_MEASURED}, for images of 512 x 512"),
    "reference_small": Variant(
        Config(base_features=24, num_heads=(2, 3, 4, 6), window=2), Problem(2, 2, 3), 1_709_688, _MEASURED
    ),
    "small": Variant(
        Config(
            base_features=32,
            depths=(2, 2, 2),
            num_heads=(2, 4, 8),
            window=4,
            num_skips=2,
            drop_path_probability=0.0,
        ),
        Problem(2, 1, 2),
        None,
        "ours",
    ),
    "tiny": Variant(
        Config(base_features=8, depths=(2, 2), num_heads=(1, 2), window=3, num_skips=1, drop_path_probability=0.0),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"drop_path_probability": Range(0.0, 0.3)}


def _divisor(config: Config) -> int:
    """The first patches, and a merging after every stage but the last."""
    return config.patch * 2 ** (len(config.depths) - 1)


CONSTRAINTS = Constraints(spatial_dims=(2,), divisor=_divisor, smallest_side=_divisor)


class _PatchEmbedding(nn.Module):
    """(B, C, X, Y) -> (B, X / patch, Y / patch, F)."""

    def __init__(self, in_channels: int, features: int, patch: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, features, patch, stride=patch)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.projection(x).movedim(1, -1))


def _blocks(config: Config, level: int) -> nn.Sequential:
    """Transformer blocks of a level: (B, x, y, F * 2^level) -> the same shape."""
    channels = config.base_features * 2**level
    first = sum(config.depths[:level])
    probabilities = rising_probabilities(config.drop_path_probability, sum(config.depths))
    return nn.Sequential(
        *(
            SwinBlock(
                channels,
                config.mlp_ratio,
                WindowAttention(
                    channels, config.num_heads[level], (config.window, config.window), is_shifted=index % 2 == 1
                ),
                probabilities[first + index],
            )
            for index in range(config.depths[level])
        )
    )


class _DecoderLevel(nn.Module):
    """Expand a map of the next coarser level, join the skip connection where there is one, and attend.

    Args:
        config: size and form.
        level: number of the level, 0 the finest.
    """

    def __init__(self, config: Config, level: int) -> None:
        super().__init__()
        channels = config.base_features * 2**level
        self.expanding = PatchExpanding(2, 2 * channels, channels)
        self.join = nn.Linear(2 * channels, channels) if level < config.num_skips else None
        self.blocks = _blocks(config, level)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, x, y, 2 C) and (B, 2 x, 2 y, C) -> (B, 2 x, 2 y, C)."""
        x = self.expanding(x)
        if self.join is not None:
            x = self.join(torch.cat([x, skip], dim=-1))
        return self.blocks(x)


class SwinUnet(nn.Module):
    """Encoder of S levels, the last one the bottleneck, and decoder of S - 1.

    Args:
        config: size and form.
        problem: two dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        features, num_levels = config.base_features, len(config.depths)
        self.config = config
        self.embedding = _PatchEmbedding(problem.in_channels, features, config.patch)
        self.stages = nn.ModuleList(_blocks(config, level) for level in range(num_levels))
        self.mergings = nn.ModuleList(PatchMerging(2, features * 2**level) for level in range(num_levels - 1))
        self.encoder_norm = nn.LayerNorm(features * 2 ** (num_levels - 1))
        self.decoder = nn.ModuleList(_DecoderLevel(config, level) for level in range(num_levels - 1))
        self.decoder_norm = nn.LayerNorm(features)
        self.final_expanding = PatchExpanding(2, features, features, config.patch)
        self.head = nn.Conv2d(features, problem.num_classes, 1, bias=False)
        start_linear_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y).

        Returns:
            (B, K, X, Y).

        Raises:
            IllegalSizeError: a side is no multiple of patch * 2^(S - 1).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        x = self.embedding(x)
        skips = []
        for stage, merging in zip(self.stages, self.mergings, strict=False):
            skips.append(x)  # as it enters the stage
            x = merging(stage(x))
        x = self.encoder_norm(self.stages[-1](x))
        for level in reversed(self.decoder):
            x = level(x, skips.pop())
        return self.head(self.final_expanding(self.decoder_norm(x)).movedim(-1, 1))


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 2D, levels without heads of their own, heads that do not share the channels
            evenly, no window, more skip connections than levels, or a probability that is none.
    """
    if problem.spatial_dims != 2:
        raise ValueError(
            f"spatial_dims={problem.spatial_dims}: Swin-Unet serves 2; take segmentation/swin_unetr or "
            "segmentation/hrstnet for 3D"
        )
    if len(config.depths) != len(config.num_heads) or len(config.depths) < 2:
        raise ValueError(
            f"depths={config.depths} and num_heads={config.num_heads}: give one of each "
            "per level, for two levels or more"
        )
    for level, num_heads in enumerate(config.num_heads):
        channels = config.base_features * 2**level
        if channels % num_heads:
            raise ValueError(
                f"num_heads={config.num_heads}: {num_heads} heads cannot share the {channels} channels of level "
                f"{level} evenly; change them or base_features={config.base_features}"
            )
    if config.window < 2:
        raise ValueError(f"window={config.window}: must be at least 2, a position alone has nothing to attend to")
    if not 0 <= config.num_skips < len(config.depths):
        raise ValueError(
            f"num_skips={config.num_skips}: must be 0 to {len(config.depths) - 1}, one for every level but the last"
        )
    if not 0 <= config.drop_path_probability < 1:
        raise ValueError(f"drop_path_probability={config.drop_path_probability}: must be from 0 to less than 1")
    return SwinUnet(config, problem)
