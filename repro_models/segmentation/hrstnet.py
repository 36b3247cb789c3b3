"""HRSTNet, the high-resolution Swin transformer network (Wei et al., 2022, arXiv 2207.11553).

As in HRNet, maps of several resolutions run side by side through Swin transformer blocks and are exchanged after every
stage; each stage adds a coarser one. Maps are halved by patch merging and doubled by patch expanding.

Differs:
    - Patch merging takes each of the eight neighbours once. The authors' takes two of them twice and two never, as did
      MONAI's of that time (MONAI issues 4757, 7324, 8284); `Config(has_authors_merging=True)` restores it.
    - Windows that are cut short to their map find the bias by offsets, see `repro_models/blocks/window_attention.py`;
      the authors' code does not.
    - Any legal size of image; the authors' code is built for one.
    - The paper does not say how weights start; here as in the Swin transformer: linear layers and bias tables from a
      normal of deviation 0.02, biases 0; convolutions by torch's default.
Shapes:
    B batch, C channels, X Y Z voxels, K classes, S stages, F base features. Level i has F * 2^i channels and sides of
    1 / 2^(i + 2); with a stem there is a finer one before them. Maps are (B, x, y, z, channels).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro_models.blocks.drop_path import rising_probabilities
from repro_models.blocks.instance_norm import InstanceNorm3d
from repro_models.blocks.patch_expanding import PatchExpanding
from repro_models.blocks.patch_merging import PatchMerging
from repro_models.blocks.residual_conv_block import ResidualConvBlock
from repro_models.blocks.swin_block import SwinBlock, start_linear_layers
from repro_models.blocks.window_attention import WindowAttention
from repro_models.contract import Constraints, Paper, Problem, Range, Variant

PAPER = Paper(
    title="High-Resolution Swin Transformer for Automatic Medical Image Segmentation",
    year=2022,
    address="https://arxiv.org/abs/2207.11553",
    reference_code="https://github.com/auroua/HRSTNet",
)

_DIMS = 3
_PATCH = 4
_MLP_RATIO = 4
# The probability of leaving a block out rises over the blocks of four levels, however many there are.
_NUM_LEVELS_OF_DROP_PATH = 4
_AUTHORS_CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are those that the authors released for BraTS.

    Attributes:
        base_features: F, a multiple of each level's heads once doubled to that level.
        num_heads: of each level; as many stages as levels, two to four in the paper.
        depth: transformer blocks of a map in a stage; every second one is shifted.
        window: positions of a window along each axis.
        fusion: how the maps that meet at a level become one: "residual_conv", a residual convolution block, or "mlp", a
            two-layer perceptron at each position.
        has_stem: patches of 2 voxels instead of 4, and a level of F / 2 channels at half resolution in every stage.
        stem_num_heads: of that level.
        drop_path_probability: that the last block of the fourth level is left out of a sample in training; it rises
            evenly from 0 for the first block of the first level.
        dropout_probability: in the perceptron of fusion "mlp".
        has_authors_merging: merge patches as the authors' code does.
    """

    base_features: int = 96
    num_heads: tuple[int, ...] = (3, 6)
    depth: int = 2
    window: int = 7
    fusion: str = "residual_conv"
    has_stem: bool = False
    stem_num_heads: int = 3
    drop_path_probability: float = 0.2
    dropout_probability: float = 0.2
    has_authors_merging: bool = False


_BRATS = Problem(spatial_dims=3, in_channels=4, num_classes=3)
_BRATS_SIZE = (128, 128, 128)
_FOUR = (3, 6, 12, 24)
_MEASURED = "counted in the authors' code"
VARIANTS = {
    "paper": Variant(Config(), _BRATS, 7_187_640, f"{_MEASURED}, as released", _BRATS_SIZE, 120_682_285_056),
    "stages_3": Variant(Config(num_heads=_FOUR[:3]), _BRATS, 50_065_578, _MEASURED, _BRATS_SIZE, 225_411_017_856),
    "stages_4": Variant(Config(num_heads=_FOUR), _BRATS, 266_325_708, _MEASURED, _BRATS_SIZE, 350_536_651_008),
    "stages_4_mlp": Variant(Config(num_heads=_FOUR, fusion="mlp"), _BRATS, 66_357_276, _MEASURED),
    "stages_4_stem": Variant(Config(num_heads=_FOUR, has_stem=True), _BRATS, 327_528_804, _MEASURED),
    "reference_small": Variant(
        Config(base_features=24, num_heads=(2, 3), window=2), Problem(3, 2, 3), 450_474, _MEASURED
    ),
    "small": Variant(
        Config(base_features=16, num_heads=(2, 4), window=4, drop_path_probability=0.0), Problem(3, 1, 5), None, "ours"
    ),
    "tiny": Variant(
        Config(
            base_features=8,
            num_heads=(1, 2),
            window=3,
            fusion="mlp",
            has_stem=True,
            stem_num_heads=1,
            drop_path_probability=0.0,
            dropout_probability=0.0,
        ),
        Problem(3, 1, 3),
        None,
        "ours",
    ),
}

SEARCH_SPACE = {"drop_path_probability": Range(0.0, 0.3)}


def _divisor(config: Config) -> int:
    """The first patches, and a halving for every level but the first."""
    return _PATCH * 2 ** (len(config.num_heads) - 1)


def _smallest_side(config: Config) -> int:
    """Instance normalisation cannot train on one voxel, the perceptron can."""
    return _divisor(config) * (2 if config.fusion == "residual_conv" else 1)


CONSTRAINTS = Constraints(spatial_dims=(_DIMS,), divisor=_divisor, smallest_side=_smallest_side)


class _HalvingBlock(nn.Module):
    """Residual convolution block of step 2: (B, C, X, Y, Z) -> (B, 2 C, X / 2, Y / 2, Z / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv3d(channels, 2 * channels, 3, stride=2, padding=1, bias=False),
            InstanceNorm3d(2 * channels),
            nn.LeakyReLU(inplace=True),
            nn.Conv3d(2 * channels, 2 * channels, 3, padding=1, bias=False),
            InstanceNorm3d(2 * channels),
        )
        self.shortcut = nn.Sequential(
            nn.Conv3d(channels, 2 * channels, 1, stride=2, bias=False), InstanceNorm3d(2 * channels)
        )
        self.activation = nn.LeakyReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.residual(x) + self.shortcut(x))


class _ConvFusion(nn.Module):
    """(B, x, y, z, in_channels) -> (B, x, y, z, out_channels)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.block = ResidualConvBlock(_DIMS, in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.movedim(-1, 1)).movedim(1, -1)


def _fusion(config: Config, in_channels: int, out_channels: int) -> nn.Module:
    if config.fusion == "residual_conv":
        return _ConvFusion(in_channels, out_channels)
    return nn.Sequential(
        nn.Linear(in_channels, in_channels // 2),
        nn.GELU(),
        nn.Dropout(config.dropout_probability),
        nn.Linear(in_channels // 2, out_channels),
        nn.Dropout(config.dropout_probability),
    )


class _Steps(nn.ModuleList):
    """Modules one after another: a map -> the maps behind every one."""

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        for step in self:
            maps.append(step(maps[-1]))
        return maps[1:]


class _SideBySide(nn.ModuleList):
    """Modules with a map each: maps -> as many maps."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [module(x) for module, x in zip(self, maps, strict=True)]


class _Exchange(nn.Module):
    """Bring every map to every target level, and fuse those that meet there, the finest source first.

    A source is merged or expanded level by level, and what it is on its way is what the levels between get.

    Args:
        config: size and form.
        widths: channels of all levels, the finest first.
        num_sources: maps that come in, of the finest levels.
        num_targets: maps that go out, of the finest levels.
    """

    def __init__(self, config: Config, widths: Sequence[int], num_sources: int, num_targets: int) -> None:
        super().__init__()
        corners = _AUTHORS_CORNERS if config.has_authors_merging else None
        self.num_targets = num_targets
        self.mergings = nn.ModuleList(
            _Steps(PatchMerging(_DIMS, widths[level], corners) for level in range(source, num_targets - 1))
            for source in range(num_sources)
        )
        self.expandings = nn.ModuleList(
            _Steps(PatchExpanding(_DIMS, widths[level], widths[level - 1]) for level in range(source, 0, -1))
            for source in range(num_sources)
        )
        self.fusions = _SideBySide(
            _fusion(config, num_sources * widths[target], widths[target]) if num_sources > 1 else nn.Identity()
            for target in range(num_targets)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        # By source, then level; a source that is coarser than all targets has levels that nobody asks for.
        versions = [
            [*reversed(expanding(x)), x, *merging(x)]
            for x, expanding, merging in zip(maps, self.expandings, self.mergings, strict=True)
        ]
        met = [torch.cat([levels[target] for levels in versions], dim=-1) for target in range(self.num_targets)]
        return self.fusions(met)


def _blocks(config: Config, level: int, channels: int, num_heads: int) -> nn.Sequential:
    """Transformer blocks of a map: (B, x, y, z, channels) -> the same shape."""
    probabilities = rising_probabilities(config.drop_path_probability, _NUM_LEVELS_OF_DROP_PATH * config.depth)
    return nn.Sequential(
        *(
            SwinBlock(
                channels,
                _MLP_RATIO,
                WindowAttention(channels, num_heads, (config.window,) * _DIMS, is_shifted=index % 2 == 1),
                probabilities[min(level * config.depth + index, len(probabilities) - 1)],
            )
            for index in range(config.depth)
        )
    )


class HRSTNet(nn.Module):
    """S stages of maps side by side, and a head that expands the finest one to the image's sides.

    Args:
        config: size and form.
        problem: three dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        features, num_stages = config.base_features, len(config.num_heads)
        widths = [features * 2**level for level in range(num_stages)]
        heads = list(config.num_heads)
        levels = list(range(num_stages))
        patch, num_first = _PATCH, 1
        if config.has_stem:
            widths, heads, levels = [features // 2, *widths], [config.stem_num_heads, *heads], [0, *levels]
            patch, num_first = _PATCH // 2, 2
        self.config = config
        self.embedding = nn.Conv3d(problem.in_channels, widths[0], patch, stride=patch)
        self.stem = _HalvingBlock(widths[0]) if config.has_stem else None
        num_maps = [num_first + stage for stage in range(num_stages)]
        self.stages = nn.ModuleList(
            _SideBySide(
                _blocks(config, level, width, num_heads)
                for level, width, num_heads in zip(levels[:count], widths, heads, strict=False)
            )
            for count in num_maps
        )
        self.exchanges = nn.ModuleList(
            _Exchange(config, widths, count, following)
            for count, following in zip(num_maps, [*num_maps[1:], len(widths)], strict=True)
        )
        self.last_exchange = _Exchange(config, widths, len(widths), 1)
        self.final_expanding = PatchExpanding(_DIMS, widths[0], widths[0], patch)
        self.head = nn.Conv3d(widths[0], problem.num_classes, 1, bias=False)
        start_linear_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, X, Y, Z).

        Returns:
            (B, K, X, Y, Z).

        Raises:
            IllegalSizeError: a side is no multiple of 2^(S + 1), or has only one such step where fusion is a
                convolution.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        x = self.embedding(x)
        maps = [x.movedim(1, -1)]
        if self.stem is not None:
            maps.append(self.stem(x).movedim(1, -1))
        for stage, exchange in zip(self.stages, self.exchanges, strict=True):
            maps = exchange(stage(maps))
        (finest,) = self.last_exchange(maps)
        return self.head(self.final_expanding(finest).movedim(-1, 1))


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: the problem is not 3D, fewer than two levels, heads that do not share the channels evenly, no
            window, a fusion that is unknown, or a probability that is none.
    """
    if problem.spatial_dims != _DIMS:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: HRSTNet serves 3; take segmentation/swin_unet for 2D")
    if len(config.num_heads) < 2:
        raise ValueError(f"num_heads={config.num_heads}: give the heads of two levels or more")
    if config.has_stem and config.base_features % 2:
        raise ValueError(f"base_features={config.base_features}: must be even, the stem's level has half of them")
    widths = [config.base_features * 2**level for level in range(len(config.num_heads))]
    shares = list(zip(widths, config.num_heads, strict=True))
    for channels, num_heads in [*shares, *([(widths[0] // 2, config.stem_num_heads)] if config.has_stem else [])]:
        if channels % num_heads:
            raise ValueError(
                f"num_heads={config.num_heads} and stem_num_heads={config.stem_num_heads}: {num_heads} heads cannot "
                f"share {channels} channels evenly; change them or base_features={config.base_features}"
            )
    if config.window < 2:
        raise ValueError(f"window={config.window}: must be at least 2, a position alone has nothing to attend to")
    if config.fusion not in ("residual_conv", "mlp"):
        raise ValueError(f"fusion={config.fusion!r}: must be residual_conv or mlp")
    for name in ("drop_path_probability", "dropout_probability"):
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}: must be from 0 to less than 1")
    return HRSTNet(config, problem)
