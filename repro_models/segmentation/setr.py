"""SETR (Zheng et al., 2021, arXiv 2012.15840).

Figure 1: a vision transformer over all squares of 16 pixels a side, and one of three decoders: naive upsampling,
progressive upsampling (PUP) or multi-level aggregation (MLA).

Differs:
    - Weights start fresh; the paper's encoder is trained on ImageNet first.
    - The authors' code has a 1x1 convolution in every head that nothing reads (`conv_seg`), and in MLA a class token
      that no other token sees. Neither is here; `VARIANTS` gives both counts.
    - Naive and PUP have a class token, which all other tokens see: the authors' code, and the counts of the paper.
    - The auxiliary heads of MLA are bare 1x1 convolutions on the maps of its pyramid, as in the authors' code; the
      paper says that each auxiliary head has two layers.
    - Images need not be square, as they must for the authors' code, which also guesses by the number of tokens whether
      one of them is the class token.
    - 3D: cubes in place of squares, all else as it is; that SETR is in the tables of UNETR (arXiv 2103.10504).
    - Layers start as `repro_models/blocks/vision_transformer.py` says, convolutions by torch's default.
Shapes:
    B batch, C channels, X Y (Z) voxels, K classes, T tokens, E hidden size, F channels of the decoder, M
    states it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.image_size import OneImageSize, sides_of
from repro_models.blocks.residual_conv_block import CONV
from repro_models.blocks.vision_transformer import LAYER_NORM_EPSILON, VisionTransformer, check_heads, tokens_as_map
from repro_models.contract import Choice, Paper, Problem, SupervisedLogits, Variant

PAPER = Paper(
    title="Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers",
    year=2021,
    address="https://arxiv.org/abs/2012.15840",
    reference_code="https://github.com/fudan-zvg/SETR",
)

_BATCH_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MODE = {2: "bilinear", 3: "trilinear"}
_DECODERS = ("naive", "pup", "mla")


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's best for Cityscapes.

    Attributes:
        decoder: "naive", "pup" or "mla".
        image_size: sides of the images it takes, all others are refused, because each token has a position of its own;
            an int serves all axes. Planning sets it to the patch (`with_patch_size`).
        token_side: voxels of a token along each axis, a power of two; PUP doubles the sides as often.
        hidden_size: E, a multiple of `num_heads`.
        mlp_size: hidden units of the two-layer perceptron of a block.
        num_heads: of every block.
        num_blocks: transformer blocks.
        tapped_blocks: numbers of the blocks after which an auxiliary head reads (naive, PUP), or from which the
            pyramid is made (MLA; the last block must be among them).
        head_channels: F.
        auxiliary_weight: of the loss of each auxiliary head in training; 0: there are none.
        dropout: probability in the transformer; the authors' released trainings have 0.
    """

    decoder: str = "pup"
    image_size: int | Sequence[int] = 768
    token_side: int = 16
    hidden_size: int = 1024
    mlp_size: int = 4096
    num_heads: int = 16
    num_blocks: int = 24
    tapped_blocks: tuple[int, ...] = (10, 15, 20, 24)
    head_channels: int = 256
    auxiliary_weight: float = 0.4
    dropout: float = 0.0


def with_patch_size(config: Config, patch_size: Sequence[int]) -> Config:
    """`config` for images of `patch_size` voxels."""
    return replace(config, image_size=tuple(patch_size))


_CITYSCAPES, _ADE20K = Problem(spatial_dims=2, in_channels=3, num_classes=19), Problem(2, 3, 150)
_NAIVE = Config("naive", tapped_blocks=(10, 15, 20))
_MLA = Config("mla", tapped_blocks=(6, 12, 18, 24))
_REFERENCE = Config(
    image_size=64, hidden_size=48, mlp_size=192, num_heads=4, num_blocks=4, tapped_blocks=(4,), auxiliary_weight=0.0
)


def _counted(total: str, num_dead: str) -> str:
    return f"the authors' code counts {total}, of which nothing reads {num_dead}"


VARIANTS = {
    "paper": Variant(
        Config(), _CITYSCAPES, 319_064_927, _counted("319,113,662", "48,735"), (768, 768), 1_079_349_657_600
    ),
    "pup_main_head": Variant(
        Config(auxiliary_weight=0.0),
        _CITYSCAPES,
        309_596_947,
        _counted("309,606,694", "9,747"),
        (768, 768),
        1_079_349_657_600,
    ),
    "naive_main_head": Variant(
        replace(_NAIVE, auxiliary_weight=0.0),
        _CITYSCAPES,
        305_728_019,
        _counted("305,737,766", "9,747"),
        (768, 768),
        959_659_622_400,
    ),
    "mla_main_head": Variant(
        replace(_MLA, auxiliary_weight=0.0),
        _CITYSCAPES,
        310_735_379,
        _counted("310,747,174", "11,795"),
        (768, 768),
        973_672_022_016,
    ),
    "naive_base_main_head": Variant(
        Config(
            "naive",
            768,
            hidden_size=768,
            mlp_size=3072,
            num_heads=12,
            num_blocks=12,
            tapped_blocks=(12,),
            auxiliary_weight=0.0,
        ),
        _CITYSCAPES,
        87_619_859,
        _counted("87,629,606", "9,747"),
    ),
    "pup_ade20k": Variant(
        Config(image_size=512),
        _ADE20K,
        317_922_542,
        _counted("318,307,292 (the paper gives 318.31 million)", "384,750"),
    ),
    "naive_ade20k": Variant(
        replace(_NAIVE, image_size=512),
        _ADE20K,
        305_361_496,
        _counted("305,669,296 (the paper gives 305.67 million)", "307,800"),
    ),
    "mla_ade20k": Variant(
        replace(_MLA, image_size=512),
        _ADE20K,
        310_182_038,
        _counted("310,568,836 (the paper gives 310.57 million)", "386,798"),
    ),
    "reference_pup": Variant(_REFERENCE, Problem(2, 2, 5), 2_023_093, _counted("2,025,658", "2,565")),
    "reference_naive": Variant(
        replace(_REFERENCE, decoder="naive"), Problem(2, 2, 5), 153_013, _counted("155,578", "2,565")
    ),
    "small": Variant(
        Config(
            image_size=64,
            token_side=8,
            hidden_size=96,
            mlp_size=384,
            num_heads=6,
            num_blocks=6,
            tapped_blocks=(2, 4, 6),
            head_channels=48,
        ),
        Problem(2, 1, 5),
        None,
        "ours",
    ),
    "tiny": Variant(
        Config(
            image_size=32,
            hidden_size=16,
            mlp_size=32,
            num_heads=2,
            num_blocks=3,
            tapped_blocks=(1, 3),
            head_channels=4,
        ),
        Problem(2, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"auxiliary_weight": Choice((0.2, 0.4, 1.0))}

# Two tokens a side at least: batch normalisation cannot train on one.
CONSTRAINTS = OneImageSize(
    spatial_dims=(2, 3),
    divisor=lambda config: config.token_side,
    smallest_side=lambda config: 2 * config.token_side,
)


def _resized(x: Tensor, size: Sequence[int], aligns_corners: bool = False) -> Tensor:
    """(B, C, *s) -> (B, C, *size), linear between voxels."""
    return functional.interpolate(x, size=tuple(size), mode=_MODE[x.ndim - 2], align_corners=aligns_corners)


def _enlarged(x: Tensor, factor: int, aligns_corners: bool = False) -> Tensor:
    """(B, C, *s) -> (B, C, *(factor * s))."""
    return x if factor == 1 else _resized(x, [factor * side for side in x.shape[2:]], aligns_corners)


class _ConvNormReLU(nn.Sequential):
    """Convolution, batch normalisation, ReLU: (B, in_channels, *s) -> (B, out_channels, *s)."""

    def __init__(self, dims: int, in_channels: int, out_channels: int, kernel_size: int, has_bias: bool) -> None:
        super().__init__(
            CONV[dims](in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=has_bias),
            _BATCH_NORM[dims](out_channels),
            nn.ReLU(inplace=True),
        )


class _Head(nn.Module):
    """Logits of one hidden state: convolutions, each followed by an enlargement, then classes.

    Args:
        dims: 2 or 3.
        config: size and form.
        num_classes: K.
        kernel_size: of the convolutions.
        factors: by which the sides are enlarged after each convolution.
    """

    def __init__(self, dims: int, config: Config, num_classes: int, kernel_size: int, factors: Sequence[int]) -> None:
        super().__init__()
        channels = config.head_channels
        self.factors = factors
        self.norm = nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPSILON)
        self.convs = nn.ModuleList(
            _ConvNormReLU(dims, in_channels, channels, kernel_size, has_bias=True)
            for in_channels in [config.hidden_size, *[channels] * (len(factors) - 1)]
        )
        self.classes = CONV[dims](channels, num_classes, 1)

    def forward(self, tokens: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
        """(B, T, E) -> (B, K, *size)."""
        x = tokens_as_map(self.norm(tokens), grid)
        for conv, factor in zip(self.convs, self.factors, strict=True):
            x = _enlarged(conv(x), factor)
        return _resized(self.classes(x), size)


class _UpsamplingDecoder(nn.Module):
    """Naive and PUP: a head on the last hidden state, and auxiliary heads on the tapped ones."""

    def __init__(self, dims: int, config: Config, num_classes: int) -> None:
        super().__init__()
        kernel_size, factors, auxiliary_factors = 1, [1], [1]
        if config.decoder == "pup":
            # One doubling for each power of two in the token, the last one of logits; auxiliary heads take two steps.
            kernel_size, factors, auxiliary_factors = 3, [2] * (config.token_side.bit_length() - 2) + [1], [4]
        self.head = _Head(dims, config, num_classes, kernel_size, factors)
        self.auxiliary_heads = nn.ModuleList(
            _Head(dims, config, num_classes, kernel_size, auxiliary_factors)
            for _ in (config.tapped_blocks if config.auxiliary_weight else ())
        )

    def forward(
        self, states: list[Tensor], grid: Sequence[int], size: Sequence[int], is_supervised: bool
    ) -> list[Tensor]:
        """Logits of the last state and, if supervised, of the tapped ones: each (B, K, *size)."""
        heads = self.auxiliary_heads if is_supervised else ()
        # The last state is one of the tapped ones or comes after them.
        auxiliary = [head(tokens, grid, size) for head, tokens in zip(heads, states, strict=False)]
        return [self.head(states[-1], grid, size), *auxiliary]


class _AggregationDecoder(nn.Module):
    """MLA (figure 1c): M states are summed from the deepest up, each sum has a stream of its own, all are joined."""

    def __init__(self, dims: int, config: Config, num_classes: int) -> None:
        super().__init__()
        channels, num_states = config.head_channels, len(config.tapped_blocks)
        half = channels // 2
        self.norms = nn.ModuleList(nn.LayerNorm(config.hidden_size, eps=LAYER_NORM_EPSILON) for _ in range(num_states))
        self.reductions = nn.ModuleList(
            _ConvNormReLU(dims, config.hidden_size, channels, 1, has_bias=False) for _ in range(num_states)
        )
        self.pyramid = nn.ModuleList(
            _ConvNormReLU(dims, channels, channels, 3, has_bias=False) for _ in range(num_states)
        )
        self.streams = nn.ModuleList(
            nn.Sequential(
                _ConvNormReLU(dims, channels, half, 3, has_bias=False),
                _ConvNormReLU(dims, half, half, 3, has_bias=False),
            )
            for _ in range(num_states)
        )
        self.classes = CONV[dims](num_states * half, num_classes, 3, padding=1)
        self.auxiliary_heads = nn.ModuleList(
            CONV[dims](channels, num_classes, 1, bias=False)
            for _ in range(num_states if config.auxiliary_weight else 0)
        )

    def forward(
        self, states: list[Tensor], grid: Sequence[int], size: Sequence[int], is_supervised: bool
    ) -> list[Tensor]:
        """Logits of all states and, if supervised, of each map of the pyramid: each (B, K, *size)."""
        maps = [
            reduction(tokens_as_map(norm(tokens), grid))
            for norm, reduction, tokens in zip(self.norms, self.reductions, states, strict=True)
        ]
        for level in reversed(range(len(maps) - 1)):
            maps[level] = maps[level] + maps[level + 1]
        maps = [conv(level) for conv, level in zip(self.pyramid, maps, strict=True)]
        streams = [
            _enlarged(stream(level), 4, aligns_corners=True) for stream, level in zip(self.streams, maps, strict=True)
        ]
        heads = self.auxiliary_heads if is_supervised else ()
        auxiliary = [_resized(head(level), size) for head, level in zip(heads, maps, strict=False)]
        return [_resized(self.classes(torch.cat(streams, dim=1)), size), *auxiliary]


class SETR(nn.Module):
    """Transformer encoder and one of three decoders.

    Args:
        config: size and form.
        problem: dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims, is_mla = problem.spatial_dims, config.decoder == "mla"
        self.config = config
        self.grid = tuple(side // config.token_side for side in sides_of(config.image_size, dims))
        self.transformer = VisionTransformer(
            dims,
            problem.in_channels,
            self.grid,
            config.token_side,
            config.hidden_size,
            config.mlp_size,
            config.num_heads,
            config.num_blocks,
            has_class_token=not is_mla,
            dropout=config.dropout,
        )
        self.decoder = (_AggregationDecoder if is_mla else _UpsamplingDecoder)(dims, config, problem.num_classes)

    def forward(self, x: Tensor) -> Tensor | SupervisedLogits:
        """Logits.

        Args:
            x: (B, C, *image_size).

        Returns:
            (B, K, *image_size); in training, with auxiliary heads, these and those of each auxiliary head, of the
            same shape.

        Raises:
            IllegalSizeError: the image does not have the sides `image_size`.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        config = self.config
        is_supervised = self.training and config.auxiliary_weight > 0
        is_tapped = is_supervised or config.decoder == "mla"
        states = self.transformer(x, {config.num_blocks, *(config.tapped_blocks if is_tapped else ())})
        logits = self.decoder(states, self.grid, x.shape[2:], is_supervised)
        if not is_supervised:
            return logits[0]
        return SupervisedLogits(logits, (1.0, *[config.auxiliary_weight] * (len(logits) - 1)))


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: an unknown decoder, a token whose side is no power of two, heads that do not divide the hidden size,
            tapped blocks that do not exist, an odd number of channels for MLA, or a negative weight.
        IllegalSizeError: a side of `image_size` is no multiple of `token_side`, or is one token.
    """
    if config.decoder not in _DECODERS:
        raise ValueError(f"decoder={config.decoder!r}: must be one of {', '.join(_DECODERS)}")
    if config.token_side < 4 or config.token_side & (config.token_side - 1):
        raise ValueError(f"token_side={config.token_side}: must be a power of two of 4 at least, because sides double")
    check_heads(config.hidden_size, config.num_heads)
    taps = config.tapped_blocks
    if not taps or list(taps) != sorted(set(taps)) or not 1 <= taps[0] <= taps[-1] <= config.num_blocks:
        raise ValueError(f"tapped_blocks={taps}: must be rising numbers from 1 to num_blocks={config.num_blocks}")
    if config.decoder == "mla" and (taps[-1] != config.num_blocks or config.head_channels % 2):
        raise ValueError(
            f"tapped_blocks={taps}, head_channels={config.head_channels}: decoder 'mla' reads the last block, so end "
            f"tapped_blocks with {config.num_blocks}, and halves head_channels, so make them even"
        )
    if config.auxiliary_weight < 0:
        raise ValueError(f"auxiliary_weight={config.auxiliary_weight}: must not be negative; 0 turns the heads off")
    CONSTRAINTS.check_config(config, problem.spatial_dims)
    return SETR(config, problem)
