"""UNETR (Hatamizadeh et al., 2022, arXiv 2103.10504).

Figure 2: a vision transformer over cubes of 16 voxels a side; four of its hidden states are brought to the levels of a
convolutional decoder.

Differs:
    - Skip connections leave after blocks 3, 6 and 9, as the paper says (section 3.1). The authors' code takes blocks 4,
      7 and 10 (MONAI issue 4520); `Config(skip_blocks=(4, 7, 10))` restores that.
    - Residual blocks with instance normalisation and leaky ReLU, as the authors' published configuration has them; the
      figure shows batch normalisation and ReLU.
    - Parameters that nothing reads do not exist: MONAI 1.6.1 counts 12 more layer normalisations (18,432 parameters in
      the paper's size), which the first published code did not have either.
    - The paper does not say how weights start; here as in the vision transformer: linear layers and position embedding
      from a normal of deviation 0.02, biases 0; convolutions by torch's default.
Shapes:
    B batch, C channels, X Y (Z) voxels, K classes, T tokens (one per cube), E hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from repro_models.blocks.image_size import OneImageSize, sides_of
from repro_models.blocks.residual_conv_block import CONV, ResidualConvBlock, UpsampleAndJoin, upsampling
from repro_models.blocks.vision_transformer import TransformerBlock, check_heads, tokens_as_map
from repro_models.contract import Paper, Problem, Variant

PAPER = Paper(
    title="UNETR: Transformers for 3D Medical Image Segmentation",
    year=2022,
    address="https://arxiv.org/abs/2103.10504",
    reference_code="https://github.com/Project-MONAI/research-contributions/tree/main/UNETR/BTCV",
)

_CUBE = 16


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's for BTCV.

    Attributes:
        image_size: sides of the images it takes, all others are refused, because each token has a position of its own;
            an int serves all axes. Planning sets it to the patch (`with_patch_size`).
        base_features: channels at full resolution; each coarser level has twice as many.
        hidden_size: E, a multiple of `num_heads`.
        mlp_size: hidden units of the two-layer perceptron of a block.
        num_heads: of every block.
        num_blocks: transformer blocks.
        skip_blocks: number of blocks before each skip connection, the finest first.
    """

    image_size: int | Sequence[int] = 96
    base_features: int = 16
    hidden_size: int = 768
    mlp_size: int = 3072
    num_heads: int = 12
    num_blocks: int = 12
    skip_blocks: tuple[int, int, int] = (3, 6, 9)


def with_patch_size(config: Config, patch_size: Sequence[int]) -> Config:
    """`config` for images of `patch_size` voxels."""
    return replace(config, image_size=tuple(patch_size))


VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(spatial_dims=3, in_channels=1, num_classes=14),
        92_784_046,
        "MONAI 1.6.1 counts 92,802,478, of which 18,432 are in layer normalisations that nothing reads",
        size=(96, 96, 96),
        num_macs=73_224_290_304,
    ),
    "brats": Variant(
        Config(image_size=128),
        Problem(3, 4, 3),
        102_449_715,
        "MONAI 1.6.1 counts 102,468,147, of which 18,432 are in layer normalisations that nothing reads",
    ),
    "reference_small": Variant(
        Config(image_size=32, base_features=4, hidden_size=48, mlp_size=96, num_heads=4),
        Problem(3, 2, 3),
        796_063,
        "MONAI 1.6.1 counts 797,215, of which 1,152 are in layer normalisations that nothing reads",
    ),
    "small": Variant(
        Config(image_size=(48, 64, 48), base_features=4, hidden_size=96, mlp_size=384, num_heads=6),
        Problem(3, 1, 5),
        None,
        "ours",
    ),
    "tiny": Variant(
        Config(
            image_size=16,
            base_features=4,
            hidden_size=16,
            mlp_size=32,
            num_heads=2,
            num_blocks=4,
            skip_blocks=(1, 2, 3),
        ),
        Problem(3, 1, 3),
        None,
        "ours",
    ),
}


CONSTRAINTS = OneImageSize(spatial_dims=(2, 3), divisor=lambda config: _CUBE, smallest_side=lambda config: _CUBE)


class _SkipPath(nn.Sequential):
    """Hidden state to the level of its skip connection: double the sides `num_doublings` times, at least once."""

    def __init__(self, spatial_dims: int, hidden_size: int, features: int, num_doublings: int) -> None:
        super().__init__(
            upsampling(spatial_dims, hidden_size, features),
            *(
                nn.Sequential(
                    upsampling(spatial_dims, features, features),
                    ResidualConvBlock(spatial_dims, features, features),
                )
                for _ in range(num_doublings - 1)
            ),
        )


class UNETR(nn.Module):
    """Transformer encoder and convolutional decoder of four levels.

    Args:
        config: size and form.
        problem: dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims, features, hidden_size = problem.spatial_dims, config.base_features, config.hidden_size
        self.config = config
        self.grid = tuple(side // _CUBE for side in sides_of(config.image_size, dims))
        self.embedding = CONV[dims](problem.in_channels, hidden_size, _CUBE, stride=_CUBE)
        self.positions = nn.Parameter(torch.empty(1, math.prod(self.grid), hidden_size))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                hidden_size, config.mlp_size, config.num_heads, has_query_key_value_bias=False, norm_epsilon=1e-5
            )
            for _ in range(config.num_blocks)
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.image_path = ResidualConvBlock(dims, problem.in_channels, features)
        # Both lists from fine to coarse: levels at 1/2, 1/4 and 1/8, and the steps that lead to 1, 1/2, 1/4 and 1/8.
        self.skip_paths = nn.ModuleList(
            _SkipPath(dims, hidden_size, features * 2**level, num_doublings=4 - level) for level in (1, 2, 3)
        )
        widths = [features * 2**level for level in range(4)]
        self.decoder = nn.ModuleList(
            UpsampleAndJoin(dims, coarse, fine) for fine, coarse in zip(widths, [*widths[1:], hidden_size], strict=True)
        )
        self.head = CONV[dims](features, problem.num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.positions, std=0.02)

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
        tokens = self.embedding(x).flatten(2).transpose(1, 2) + self.positions
        states = []
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens)
            if number in self.config.skip_blocks:
                states.append(tokens_as_map(tokens, self.grid))
        skips = [self.image_path(x), *(path(state) for path, state in zip(self.skip_paths, states, strict=True))]
        y = tokens_as_map(self.norm(tokens), self.grid)
        for step, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            y = step(y, skip)
        return self.head(y)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the heads do not divide the hidden size, or a skip connection has no block of its own.
        IllegalSizeError: a side of `image_size` is no multiple of 16.
    """
    check_heads(config.hidden_size, config.num_heads)
    first, second, third = config.skip_blocks
    if not 1 <= first < second < third <= config.num_blocks:
        raise ValueError(
            f"skip_blocks={config.skip_blocks}: must be three rising numbers from 1 to num_blocks={config.num_blocks}"
        )
    CONSTRAINTS.check_config(config, problem.spatial_dims)
    return UNETR(config, problem)
