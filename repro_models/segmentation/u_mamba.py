"""U-Mamba (Ma et al., 2024, arXiv 2401.04722).

Figure 1: nnU-Net's frame with residual blocks, and Mamba layers that mix all voxels of a map as one sequence.
U-Mamba_Bot has one behind the last encoder stage, U-Mamba_Enc has them in the whole encoder. A planner may choose the
stages.

Differs:
    - The form is that of the authors' `UMambaBot_2d.py`, `UMambaEnc_3d.py` and the like, to which the counts belong. Of
      S stages, those of the encoder from number S / 2 on, and of the decoder likewise, counted in the order of
      computation, have one residual block, the others two (`Config(is_thinned=False)`: all). Maps grow by copies of
      their voxels and a convolution of side 1. An older file of theirs, `UMambaBot.py`, has two blocks in each stage,
      and transposed convolutions.
    - In 2D they leave out the skip connection at full resolution, and U-Mamba_Enc has a Mamba layer in every second
      stage only, the last one included; so it is here by default. `Config(has_finest_skip=True, mamba_period=1)` is as
      in 3D.
    - The convolution of side 1 comes before the copying: the same numbers, not computed anew for each copy.
    - Under autocast the layers around a scan work in the lower precision and the sums of the scan in float32. The
      authors switch autocast off for their Mamba layers, and warn that U-Mamba_Enc may become NaN with it all the same.
    - Heads that nothing reads (`deep_supervision=False`) do not exist; the authors' code keeps them.
Shapes:
    B batch, C channels, X Y (Z) voxels, K classes, S stages. Outputs of the S - 1 decoder stages: finest first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.image_size import OneImageSize, sides_of
from repro_models.blocks.instance_norm import INSTANCE_NORM
from repro_models.blocks.mamba_mixer import mamba
from repro_models.blocks.pointwise_conv import POINTWISE_CONV
from repro_models.blocks.residual_conv_block import CONV
from repro_models.blocks.stage_topology import (
    check_topology,
    divisor,
    doubling_features,
    frozen,
    per_axis,
    smallest_side,
)
from repro_models.blocks.vision_transformer import tokens_as_map
from repro_models.contract import Constraints, Paper, Problem, Variant

PAPER = Paper(
    title="U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation",
    year=2024,
    address="https://arxiv.org/abs/2401.04722",
    reference_code="https://github.com/bowang-lab/U-Mamba",
)

_NEGATIVE_SLOPE = 0.01
_MAMBA_PERIOD = {2: 2, 3: 1}


@dataclass(frozen=True)
class Config:
    """Form and topology; the defaults are U-Mamba_Bot's for an isotropic 3D patch of 128 voxels a side.

    Attributes:
        form: `bottleneck` (U-Mamba_Bot) or `encoder` (U-Mamba_Enc).
        features: channels of each stage; stages beyond the last number have as many as it says. None is nnU-Net's: 32,
            doubled with each stage up to 320 in 3D and 512 in 2D.
        strides: one per stage, the first is 1; an int serves all axes, else one int per axis.
        kernel_sizes: one per stage, odd; as `strides`.
        num_blocks: residual blocks of every stage.
        is_thinned: the second half of the encoder's stages and of the decoder's has one residual block instead.
        has_finest_skip: the skip connection at full resolution exists; None is the authors' code: in 3D only.
        mamba_period: of the form `encoder`, which stages have a Mamba layer: every first, every second, ... counted
            from the last; None is the authors' code: 1 in 3D, 2 in 2D.
        image_size: of the form `encoder`, sides of the images it is made for; an int serves all axes. Where a map has
            no more voxels than channels, its Mamba layer mixes the channels, each a vector of voxels, and the network
            takes this size alone. Planning sets it to the patch (`with_patch_size`).
        deep_supervision: in training mode, return the logits of every decoder stage.
    """

    form: str = "bottleneck"
    features: Sequence[int] | None = None
    strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2, 2)
    kernel_sizes: Sequence[int | Sequence[int]] = (3, 3, 3, 3, 3, 3)
    num_blocks: int = 2
    is_thinned: bool = True
    has_finest_skip: bool | None = None
    mamba_period: int | None = None
    image_size: int | Sequence[int] = 128
    deep_supervision: bool = True


def with_topology(
    config: Config, strides: Sequence[int | Sequence[int]], kernel_sizes: Sequence[int | Sequence[int]]
) -> Config:
    """`config` with the stages that a planner chose: one stride and one kernel size per stage."""
    return replace(config, strides=frozen(strides), kernel_sizes=frozen(kernel_sizes))


def with_patch_size(config: Config, patch_size: Sequence[int]) -> Config:
    """`config` for images of `patch_size` voxels; the form `bottleneck` has weights for every size."""
    return replace(config, image_size=tuple(patch_size)) if config.form == "encoder" else config


def features_per_stage(config: Config, spatial_dims: int) -> list[int]:
    """Channels of every stage."""
    num_stages = len(config.strides)
    if config.features is None:
        return doubling_features(num_stages, spatial_dims)
    return [config.features[min(stage, len(config.features) - 1)] for stage in range(num_stages)]


def _mamba_stages(config: Config, spatial_dims: int) -> list[int]:
    """Encoder stages that end in a Mamba layer, the last one first."""
    last = len(config.strides) - 1
    period = last + 1 if config.form == "bottleneck" else config.mamba_period or _MAMBA_PERIOD[spatial_dims]
    return list(range(last, -1, -period))


def _voxels_as_features(config: Config, spatial_dims: int) -> dict[int, int]:
    """Encoder stage whose Mamba layer mixes channels -> voxels of its map."""
    if config.form == "bottleneck":
        return {}
    strides = per_axis("strides", config.strides, spatial_dims)
    factors = list(itertools.accumulate(strides, lambda product, stride: tuple(map(int.__mul__, product, stride))))
    features = features_per_stage(config, spatial_dims)
    found = {}
    for stage in _mamba_stages(config, spatial_dims):
        sides = sides_of(config.image_size, spatial_dims)
        num_voxels = math.prod(side // factor for side, factor in zip(sides, factors[stage], strict=True))
        if num_voxels <= features[stage]:
            found[stage] = num_voxels
    return found


_ABDOMEN = Config(
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2)),
    kernel_sizes=((1, 3, 3), 3, 3, 3, 3, 3),
)
_ABDOMEN_2D = Config(strides=(1, 2, 2, 2, 2, 2, 2), kernel_sizes=(3,) * 7)
_ABDOMEN_SIDES, _ABDOMEN_2D_SIDES = (40, 224, 192), (320, 320)
_COUNTED = "counted in the authors' code with stages as nnU-Net plans them for abdominal images"
_SMALL = Config(features=(8, 16, 32, 64), strides=(1, 2, 2, 2), kernel_sizes=(3, 3, 3, 3))
_HIPPOCAMPUS = Problem(spatial_dims=3, in_channels=1, num_classes=3)
VARIANTS = {
    "bottleneck_3d": Variant(_ABDOMEN, Problem(3, 1, 14), 41_945_158, _COUNTED, _ABDOMEN_SIDES),
    "encoder_3d": Variant(
        replace(_ABDOMEN, form="encoder", image_size=_ABDOMEN_SIDES),
        Problem(3, 1, 14),
        42_842_798,
        _COUNTED,
        _ABDOMEN_SIDES,
    ),
    "bottleneck_2d": Variant(_ABDOMEN_2D, Problem(2, 1, 14), 47_533_012, _COUNTED, _ABDOMEN_2D_SIDES),
    "encoder_2d": Variant(
        replace(_ABDOMEN_2D, form="encoder", image_size=_ABDOMEN_2D_SIDES),
        Problem(2, 1, 14),
        47_015_538,
        _COUNTED,
        _ABDOMEN_2D_SIDES,
    ),
    "reference_small": Variant(
        replace(_SMALL, features=(8, 16, 24, 32)), Problem(3, 2, 3), 244_529, "counted in the authors' code"
    ),
    "small": Variant(_SMALL, _HIPPOCAMPUS, None, "ours"),
    "encoder_small": Variant(replace(_SMALL, form="encoder", image_size=32), _HIPPOCAMPUS, None, "ours"),
    "bottleneck_tiny": Variant(
        Config(features=(4, 8, 16), strides=(1, 2, 2), kernel_sizes=(3, 3, 3)), _HIPPOCAMPUS, None, "ours"
    ),
    "tiny": Variant(
        # Maps of the last stage have 27 voxels at most in tests, so channels are what is mixed there.
        Config(form="encoder", features=(4, 32), strides=(1, 2), kernel_sizes=(3, 3), image_size=4),
        _HIPPOCAMPUS,
        None,
        "ours",
    ),
}


class _SizeOfMixedChannels(OneImageSize):
    """A network with Mamba layers that mix channels takes images of its own size only, any other all sizes."""

    def check_size(self, config: Config, size: Sequence[int]) -> None:
        """Raise `IllegalSizeError` unless the network has weights for images of `size`."""
        if _voxels_as_features(config, len(size)):
            super().check_size(config, size)
        else:
            Constraints.check_size(self, config, size)


CONSTRAINTS = _SizeOfMixedChannels(
    spatial_dims=(2, 3),
    divisor=lambda config: divisor(config.strides),
    smallest_side=lambda config: smallest_side(config.strides),
)


class _StridedPointwiseConv(nn.Module):
    """(B, in_channels, *spatial) -> (B, out_channels, *spatial / stride): takes the voxels it needs first."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.every = (slice(None), slice(None), *(slice(None, None, step) for step in stride))
        self.conv = POINTWISE_CONV[len(stride)](in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[self.every])


class _ResidualBlock(nn.Module):
    """Two convolutions beside `shortcut`; the first one strides."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        shortcut: nn.Module,
    ) -> None:
        super().__init__()
        conv, norm = CONV[len(stride)], INSTANCE_NORM[len(stride)]
        padding = tuple(side // 2 for side in kernel_size)
        self.convolutions = nn.Sequential(
            conv(in_channels, out_channels, kernel_size, stride, padding),
            norm(out_channels, affine=True),
            nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True),
            conv(out_channels, out_channels, kernel_size, 1, padding),
            norm(out_channels, affine=True),
        )
        self.shortcut = shortcut
        self.activation = nn.LeakyReLU(_NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial / stride)."""
        return self.activation(self.convolutions(x) + self.shortcut(x))


def _residual_blocks(
    in_channels: int, out_channels: int, kernel_size: tuple[int, ...], stride: tuple[int, ...], num_blocks: int
) -> list[nn.Module]:
    """Blocks of a stage; the first one strides, and projects its shortcut whether channels change or not."""
    projection = _StridedPointwiseConv(in_channels, out_channels, stride)
    first = _ResidualBlock(in_channels, out_channels, kernel_size, stride, projection)
    unstrided = (1,) * len(stride)
    rest = [
        _ResidualBlock(out_channels, out_channels, kernel_size, unstrided, nn.Identity()) for _ in range(1, num_blocks)
    ]
    return [first, *rest]


class _MambaLayer(nn.Module):
    """Normalise and scan: (B, C, *spatial) -> the same shape.

    Args:
        width: length of a step: C where steps are voxels, voxels of the map where steps are channels.
        mixes_channels: steps are channels.
    """

    def __init__(self, width: int, mixes_channels: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mamba = mamba(width)
        self.mixes_channels = mixes_channels

    def forward(self, x: Tensor) -> Tensor:
        """Mix the voxels of each map in their order in memory, or its channels in theirs."""
        if self.mixes_channels:
            return self.mamba(self.norm(x.flatten(2))).reshape(x.shape)
        return tokens_as_map(self.mamba(self.norm(x.flatten(2).transpose(1, 2))), x.shape[2:])


class _Upsampling(nn.Module):
    """(B, in_channels, *spatial) -> (B, out_channels, *spatial * stride): copies of each voxel."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        self.stride = stride
        self.conv = POINTWISE_CONV[len(stride)](in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        size = [side * step for side, step in zip(x.shape[2:], self.stride, strict=True)]
        return functional.interpolate(self.conv(x), size)


class UMamba(nn.Module):
    """Encoder of S stages and decoder of S - 1.

    Args:
        config: form and topology.
        problem: dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims, num_stages = problem.spatial_dims, len(config.strides)
        strides = per_axis("strides", config.strides, dims)
        kernel_sizes = per_axis("kernel_sizes", config.kernel_sizes, dims)
        check_topology(strides, kernel_sizes)
        features, unstrided = features_per_stage(config, dims), (1,) * dims
        # The same for the encoder from its finest and for the decoder from its coarsest stage.
        num_full = math.ceil(num_stages / 2) if config.is_thinned else num_stages
        num_blocks = [config.num_blocks if index < num_full else 1 for index in range(num_stages)]
        mamba_stages, num_voxels = _mamba_stages(config, dims), _voxels_as_features(config, dims)

        self.config = config
        self.has_finest_skip = dims == 3 if config.has_finest_skip is None else config.has_finest_skip
        self.stem = nn.Sequential(
            *_residual_blocks(problem.in_channels, features[0], kernel_sizes[0], unstrided, num_blocks[0])
        )
        self.encoder = nn.ModuleList()
        for stage, in_channels in enumerate([features[0], *features[:-1]]):
            blocks = _residual_blocks(
                in_channels, features[stage], kernel_sizes[stage], strides[stage], num_blocks[stage]
            )
            if stage in mamba_stages:
                blocks.append(_MambaLayer(num_voxels.get(stage, features[stage]), stage in num_voxels))
            self.encoder.append(nn.Sequential(*blocks))
        self.upsampling, self.decoder, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, stage in enumerate(reversed(range(num_stages - 1))):
            channels, has_skip = features[stage], stage > 0 or self.has_finest_skip
            self.upsampling.append(_Upsampling(features[stage + 1], channels, strides[stage + 1]))
            in_channels = 2 * channels if has_skip else channels
            self.decoder.append(
                nn.Sequential(
                    *_residual_blocks(in_channels, channels, kernel_sizes[stage], unstrided, num_blocks[index])
                )
            )
            if config.deep_supervision or stage == 0:
                self.heads.append(POINTWISE_CONV[dims](channels, problem.num_classes))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, a=_NEGATIVE_SLOPE)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits.

        Args:
            x: (B, C, *spatial).

        Returns:
            (B, K, *spatial); in training mode with deep supervision S - 1 of them, the finest first, each further one
            smaller by the stride of its stage.

        Raises:
            IllegalSizeError: a side is not divisible by its strides, too small, or not what the network is made for.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        x = self.stem(x)
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        is_supervised_deeply = self.training and self.config.deep_supervision
        maps: list[Tensor] = []
        for upsample, blocks in zip(self.upsampling, self.decoder, strict=True):
            x, skip = upsample(x), skips.pop()
            x = blocks(torch.cat([x, skip], dim=1) if skips or self.has_finest_skip else x)
            if is_supervised_deeply:
                maps.append(x)
        if is_supervised_deeply:
            return [head(level) for head, level in zip(self.heads, maps, strict=True)][::-1]
        return self.heads[-1](x)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights: convolutions Kaiming normal for a slope of 0.01, their biases 0.

    Raises:
        ValueError: an unknown form, no block, no period, or strides, kernel sizes and image size that do not make a
            network of `problem.spatial_dims` dimensions.
    """
    if config.form not in ("bottleneck", "encoder"):
        raise ValueError(f"form={config.form!r}: must be 'bottleneck' (U-Mamba_Bot) or 'encoder' (U-Mamba_Enc)")
    if config.num_blocks < 1:
        raise ValueError(f"num_blocks={config.num_blocks}: every stage needs at least 1 residual block")
    if config.features is not None and (not config.features or min(config.features) < 1):
        raise ValueError(f"features={config.features}: give whole numbers from 1, as (32, 64), or None for nnU-Net's")
    if config.mamba_period is not None and config.mamba_period < 1:
        raise ValueError(f"mamba_period={config.mamba_period}: must be at least 1, a Mamba layer in every stage")
    if config.form == "encoder":
        per_axis("strides", config.strides, problem.spatial_dims)
        CONSTRAINTS.check_config(config, problem.spatial_dims)
    return UMamba(config, problem)
