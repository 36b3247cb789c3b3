"""Swin UNETR (Hatamizadeh et al., 2022, arXiv 2201.01266).

Figure 1: a Swin transformer whose maps at 1/2, 1/4, ... are normalised and joined to a convolutional decoder.

Differs:
    - Patches are merged in the order of MONAI 1.6.1. Weights published before have another one, in which two of eight
      positions come twice and two never (MONAI issues 4757, 7324, 8284).
    - Windows that are as small as their map find the bias by offsets; the authors' code does not
      (`repro_models/blocks/window_attention.py`); `Config(has_authors_bias_index=True)` restores it. In images of 96
      voxels a side that is the last stage.
    - A side of one voxel at the lowest level is refused, because instance normalisation cannot train on one voxel.
    - The paper does not say how weights start; here as in the Swin transformer: linear layers and bias tables from a
      normal of deviation 0.02, biases 0; convolutions by torch's default.
Shapes:
    B batch, C channels, X Y (Z) voxels, K classes, S stages, F base features. Map i has F * 2^i channels and sides of
    1 / 2^(i + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.patch_merging import PatchMerging
from repro_models.blocks.residual_conv_block import CONV, ResidualConvBlock, UpsampleAndJoin
from repro_models.blocks.swin_block import SwinBlock, start_linear_layers
from repro_models.blocks.window_attention import WindowAttention
from repro_models.contract import Constraints, Paper, Problem, Variant

PAPER = Paper(
    title="Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images",
    year=2022,
    address="https://arxiv.org/abs/2201.01266",
    reference_code="https://github.com/Project-MONAI/research-contributions/tree/main/SwinUNETR",
)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's.

    Attributes:
        base_features: F, a multiple of each stage's heads once doubled to that stage.
        depths: transformer blocks of each of the S stages; every second one is shifted.
        num_heads: of each stage.
        window: positions of a window along each axis.
        mlp_ratio: hidden units of the perceptron, as a multiple of the channels.
        has_stage_convs: a residual convolution block before each stage, as in Swin UNETR-V2 (He et al., MICCAI 2023).
        has_authors_bias_index: look the position bias of small windows up as the authors' code does.
    """

    base_features: int = 48
    depths: tuple[int, ...] = (2, 2, 2, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: int = 4
    has_stage_convs: bool = False
    has_authors_bias_index: bool = False


_BTCV = Problem(spatial_dims=3, in_channels=1, num_classes=14)
_MONAI = "counted in MONAI 1.6.1"
VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(3, 4, 3),
        62_191_941,
        f"{_MONAI}; the paper gives 61.98 million",
        size=(128, 128, 128),
        num_macs=771_643_486_848,
    ),
    "btcv_base": Variant(
        Config(),
        _BTCV,
        62_187_296,
        f"{_MONAI}; the authors give 62.1 million",
        size=(96, 96, 96),
        num_macs=318_524_732_736,
    ),
    "btcv_small": Variant(Config(base_features=24), _BTCV, 15_703_304, f"{_MONAI}; the authors give 15.7 million"),
    "btcv_tiny": Variant(Config(base_features=12), _BTCV, 4_078_220, f"{_MONAI}; the authors give 4.0 million"),
    "features_36": Variant(Config(base_features=36), Problem(3, 2, 5), 35_073_959, _MONAI),
    "v2": Variant(Config(has_stage_convs=True), _BTCV, 72_762_656, _MONAI),
    "small": Variant(
        Config(base_features=8, depths=(2, 2, 2), num_heads=(1, 2, 4), window=4), Problem(3, 1, 5), None, "ours"
    ),
    "tiny": Variant(
        Config(base_features=4, depths=(2, 2), num_heads=(1, 2), window=3, has_stage_convs=True),
        Problem(3, 1, 3),
        None,
        "ours",
    ),
}


def _divisor(config: Config) -> int:
    """The first patches halve every side, and so does each stage."""
    return 2 ** (len(config.depths) + 1)


CONSTRAINTS = Constraints(spatial_dims=(2, 3), divisor=_divisor, smallest_side=lambda config: 2 * _divisor(config))


class _Stage(nn.Module):
    """Transformer blocks and a merging of patches: (B, C, *spatial) -> (B, 2 C, *halved spatial)."""

    def __init__(self, config: Config, number: int, spatial_dims: int) -> None:
        super().__init__()
        channels = config.base_features * 2**number
        self.conv: nn.Module = nn.Identity()
        if config.has_stage_convs:
            self.conv = ResidualConvBlock(spatial_dims, channels, channels)
        self.blocks = nn.Sequential(
            *(
                SwinBlock(
                    channels,
                    config.mlp_ratio,
                    WindowAttention(
                        channels,
                        config.num_heads[number],
                        (config.window,) * spatial_dims,
                        is_shifted=index % 2 == 1,
                        has_authors_bias_index=config.has_authors_bias_index,
                    ),
                )
                for index in range(config.depths[number])
            )
        )
        self.merging = PatchMerging(spatial_dims, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).movedim(1, -1)
        return self.merging(self.blocks(x)).movedim(-1, 1)


def _normalised(x: Tensor) -> Tensor:
    """Layer normalisation over the channels of (B, C, *spatial), without scale and shift."""
    return functional.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)


class SwinUNETR(nn.Module):
    """Swin encoder of S stages and convolutional decoder of S + 1 steps.

    Args:
        config: size and form.
        problem: dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims, num_stages = problem.spatial_dims, len(config.depths)
        widths = [config.base_features * 2**level for level in range(num_stages + 1)]
        self.config = config
        self.embedding = CONV[dims](problem.in_channels, widths[0], 2, stride=2)
        self.stages = nn.ModuleList(_Stage(config, number, dims) for number in range(num_stages))
        self.image_path = ResidualConvBlock(dims, problem.in_channels, widths[0])
        # One per map, from fine to coarse; the last map but one goes to the decoder as it is.
        self.skip_paths = nn.ModuleList(
            nn.Identity() if level == num_stages - 1 else ResidualConvBlock(dims, width, width)
            for level, width in enumerate(widths)
        )
        self.decoder = nn.ModuleList(
            UpsampleAndJoin(dims, coarse, fine) for fine, coarse in zip([widths[0], *widths], widths, strict=False)
        )
        self.head = CONV[dims](widths[0], problem.num_classes, 1)
        start_linear_layers(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, *spatial).

        Returns:
            (B, K, *spatial).

        Raises:
            IllegalSizeError: a side is no multiple of 2^(S + 1), or has only one such step.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        maps = [self.embedding(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        skips = [path(_normalised(level)) for path, level in zip(self.skip_paths, maps, strict=True)]
        y = skips.pop()
        for step, skip in zip(reversed(self.decoder), reversed([self.image_path(x), *skips]), strict=True):
            y = step(y, skip)
        return self.head(y)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: stages without heads of their own, heads that do not share the channels evenly, or no window.
    """
    if len(config.depths) != len(config.num_heads) or not config.depths:
        raise ValueError(f"depths={config.depths} and num_heads={config.num_heads}: give one of each per stage")
    for number, num_heads in enumerate(config.num_heads):
        channels = config.base_features * 2**number
        if channels % num_heads:
            raise ValueError(
                f"num_heads={config.num_heads}: {num_heads} heads cannot share the {channels} channels of stage "
                f"{number} evenly; change them or base_features={config.base_features}"
            )
    if config.window < 2:
        raise ValueError(f"window={config.window}: must be at least 2, a position alone has nothing to attend to")
    return SwinUNETR(config, problem)
