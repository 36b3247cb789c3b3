"""U-Net of nnU-Net (Isensee et al., 2021, Nature Methods 18), with a plain or a residual encoder.

The network that nnU-Net v2 configures for a data set: downsampling by the stride of a stage's first convolution,
transposed convolutions on the way up, a segmentation layer at every decoder stage. With the plain encoder, encoder and
decoder have two convolution blocks a stage. The residual encoder (nnU-Net Revisited, Isensee et al., 2024, arXiv
2404.09556) begins with a convolution block; its stages have 1, 3, 4, 6, 6, ... residual blocks with the shortcut of
ResNet-D (He et al., 2019, arXiv 1812.01187, figure 2c), and decoder stages one convolution block.

Differs:
    - Segmentation layers that nothing reads (`deep_supervision=False`) stay, as in nnU-Net, but are frozen, so that
      every trainable parameter gets a gradient.
    - A network of one stage is refused; nnU-Net builds one without any output.
Shapes:
    B batch, C channels, X Y (Z) voxels, K classes, S stages. Outputs of the S - 1 decoder stages: finest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from repro_models.blocks.instance_norm import INSTANCE_NORM
from repro_models.blocks.pointwise_conv import POINTWISE_CONV
from repro_models.blocks.stage_topology import (
    check_topology,
    divisor,
    doubling_features,
    frozen,
    per_axis,
    smallest_side,
)
from repro_models.contract import Constraints, Paper, Problem, Variant

PAPER = Paper(
    title="nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
    year=2021,
    address="https://doi.org/10.1038/s41592-020-01008-z",
    reference_code="https://github.com/MIC-DKFZ/nnUNet",
)

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED_CONV: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_AVERAGE_POOL: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


@dataclass(frozen=True)
class Config:
    """Size and topology; the defaults are nnU-Net's for an isotropic 3D patch of 128 voxels a side.

    Attributes:
        base_features: channels of the first stage; each further stage has twice as many.
        max_features: limit of that doubling; None is 320 in 3D and 512 in 2D.
        strides: one per stage, the first is 1; an int serves all axes, else one int per axis.
        kernel_sizes: one per stage, odd; as `strides`.
        num_conv_per_stage: convolution blocks of every decoder stage and of every stage of a plain encoder.
        residual_blocks: residual blocks of each encoder stage; stages beyond the last number have as many as it says,
            so that a planner may choose the depth. None is the plain encoder.
        deep_supervision: in training mode, return the logits of every decoder stage.
        negative_slope: of the leaky ReLU.
    """

    base_features: int = 32
    max_features: int | None = None
    strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2, 2)
    kernel_sizes: Sequence[int | Sequence[int]] = (3, 3, 3, 3, 3, 3)
    num_conv_per_stage: int = 2
    residual_blocks: Sequence[int] | None = None
    deep_supervision: bool = True
    negative_slope: float = 0.01


def with_topology(
    config: Config, strides: Sequence[int | Sequence[int]], kernel_sizes: Sequence[int | Sequence[int]]
) -> Config:
    """`config` with the stages that a planner chose: one stride and one kernel size per stage."""
    return replace(config, strides=frozen(strides), kernel_sizes=frozen(kernel_sizes))


def features_per_stage(config: Config, spatial_dims: int) -> list[int]:
    """Channels of every stage."""
    return doubling_features(len(config.strides), spatial_dims, config.base_features, config.max_features)


_RESIDUAL = Config(residual_blocks=(1, 3, 4, 6), num_conv_per_stage=1)
_HIPPOCAMPUS = Problem(spatial_dims=3, in_channels=1, num_classes=3)
VARIANTS = {
    "paper": Variant(Config(), Problem(3, 1, 2), None, "published rounded only: 31.2 million"),
    "hippocampus_3d": Variant(
        Config(strides=(1, 2, 2, 2), kernel_sizes=(3, 3, 3, 3)),
        _HIPPOCAMPUS,
        5_603_177,
        "nnunetv2 2.8.1, its own plan for MSD Task04, counted",
    ),
    "small": Variant(Config(base_features=8, max_features=128), _HIPPOCAMPUS, None, "ours"),
    "tiny": Variant(Config(base_features=4, strides=(1, 2, 2), kernel_sizes=(3, 3, 3)), _HIPPOCAMPUS, None, "ours"),
    "residual": Variant(
        _RESIDUAL,
        Problem(3, 1, 2),
        102_349_770,
        "dynamic-network-architectures 0.4.4, ResidualEncoderUNet of six stages, counted",
    ),
    "residual_hippocampus_3d": Variant(
        replace(_RESIDUAL, strides=(1, 2, 2, 2), kernel_sizes=(3, 3, 3, 3)),
        _HIPPOCAMPUS,
        25_895_593,
        "dynamic-network-architectures 0.4.4, as nnunetv2 2.8.1 plans it for MSD Task04, counted",
    ),
    "residual_small": Variant(replace(_RESIDUAL, base_features=8, max_features=128), _HIPPOCAMPUS, None, "ours"),
    "residual_tiny": Variant(
        Config(
            base_features=4, strides=(1, 2, 2), kernel_sizes=(3, 3, 3), num_conv_per_stage=1, residual_blocks=(1, 2)
        ),
        _HIPPOCAMPUS,
        None,
        "ours",
    ),
}


CONSTRAINTS = Constraints(
    spatial_dims=(2, 3),
    divisor=lambda config: divisor(config.strides),
    smallest_side=lambda config: smallest_side(config.strides),
)


def _per_stage(residual_blocks: Sequence[int], num_stages: int) -> list[int]:
    """Residual blocks of every stage."""
    if not residual_blocks or min(residual_blocks) < 1:
        raise ValueError(
            f"residual_blocks={residual_blocks}: every stage needs at least 1; "
            "give whole numbers from 1, as (1, 3, 4, 6), or None for the plain encoder"
        )
    return [residual_blocks[min(stage, len(residual_blocks) - 1)] for stage in range(num_stages)]


class _ConvBlocks(nn.Sequential):
    """Convolution, instance normalisation, leaky ReLU; `num_conv` times, the stride in the first."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        num_conv: int,
        negative_slope: float,
    ) -> None:
        spatial_dims = len(kernel_size)
        padding = tuple((side - 1) // 2 for side in kernel_size)
        layers: list[nn.Module] = []
        for index in range(num_conv):
            layers += [
                _CONV[spatial_dims](
                    in_channels if index == 0 else out_channels,
                    out_channels,
                    kernel_size,
                    stride if index == 0 else 1,
                    padding,
                ),
                INSTANCE_NORM[spatial_dims](out_channels, eps=1e-5, affine=True),
                nn.LeakyReLU(negative_slope, inplace=True),
            ]
        super().__init__(*layers)


class _ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which averages where they stride and projects where channels change.

    It begins as its shortcut: the last normalisation scales by 0 until training says otherwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        negative_slope: float,
    ) -> None:
        super().__init__()
        spatial_dims = len(kernel_size)
        *layers, last_norm, activation = _ConvBlocks(
            in_channels, out_channels, kernel_size, stride, 2, negative_slope
        ).children()
        for parameter in last_norm.parameters():
            nn.init.zeros_(parameter)
        shortcut: list[nn.Module] = []
        if max(stride) > 1:
            shortcut.append(_AVERAGE_POOL[spatial_dims](stride))
        if in_channels != out_channels:
            shortcut += [
                _CONV[spatial_dims](in_channels, out_channels, 1, bias=False),
                INSTANCE_NORM[spatial_dims](out_channels, eps=1e-5, affine=True),
            ]
        self.convolutions = nn.Sequential(*layers, last_norm)
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial / stride)."""
        return self.activation(self.convolutions(x) + self.shortcut(x))


def _residual_blocks(
    in_channels: int,
    out_channels: int,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    num_blocks: int,
    negative_slope: float,
) -> nn.Module:
    """Residual blocks of a stage, the stride in the first."""
    first = _ResidualBlock(in_channels, out_channels, kernel_size, stride, negative_slope)
    unstrided = (1,) * len(kernel_size)
    rest = [
        _ResidualBlock(out_channels, out_channels, kernel_size, unstrided, negative_slope) for _ in range(1, num_blocks)
    ]
    return nn.Sequential(first, *rest)


class UNet(nn.Module):
    """Encoder of S stages and decoder of S - 1.

    Args:
        config: size and topology.
        problem: dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims = problem.spatial_dims
        strides = per_axis("strides", config.strides, dims)
        kernel_sizes = per_axis("kernel_sizes", config.kernel_sizes, dims)
        check_topology(strides, kernel_sizes)
        features = features_per_stage(config, dims)
        slope, unstrided = config.negative_slope, (1,) * dims

        def conv_blocks(in_channels: int, stage: int, stride: tuple[int, ...]) -> nn.Module:
            num_conv = config.num_conv_per_stage
            return _ConvBlocks(in_channels, features[stage], kernel_sizes[stage], stride, num_conv, slope)

        self.config = config
        self.stem: nn.Module = nn.Identity()
        inputs = [problem.in_channels, *features[:-1]]
        if config.residual_blocks is None:
            encoder = [conv_blocks(inputs[stage], stage, strides[stage]) for stage in range(len(strides))]
        else:
            self.stem = _ConvBlocks(inputs[0], features[0], kernel_sizes[0], unstrided, 1, slope)
            inputs[0] = features[0]
            num_blocks = _per_stage(config.residual_blocks, len(strides))
            stages = zip(inputs, features, kernel_sizes, strides, num_blocks, strict=True)
            encoder = [_residual_blocks(*stage, slope) for stage in stages]
        self.encoder = nn.ModuleList(encoder)
        # The three decoder lists run as the decoder does: from the coarsest stage to the finest.
        decoder_stages = range(len(strides) - 2, -1, -1)
        self.upsampling = nn.ModuleList(
            _TRANSPOSED_CONV[dims](features[stage + 1], features[stage], strides[stage + 1], strides[stage + 1])
            for stage in decoder_stages
        )
        self.decoder = nn.ModuleList(conv_blocks(2 * features[stage], stage, unstrided) for stage in decoder_stages)
        self.heads = nn.ModuleList(
            POINTWISE_CONV[dims](features[stage], problem.num_classes) for stage in decoder_stages
        )
        if not config.deep_supervision:
            self.heads[:-1].requires_grad_(False)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits.

        Args:
            x: (B, C, *spatial).

        Returns:
            (B, K, *spatial); in training mode with deep supervision S - 1 of them, the finest first, each further one
            smaller by the stride of its stage.

        Raises:
            IllegalSizeError: a side is not divisible by its strides, or too small.
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        x = self.stem(x)
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        skips.pop()
        is_supervised_deeply = self.training and self.config.deep_supervision
        outputs: list[Tensor] = []
        for upsample, stage, head in zip(self.upsampling, self.decoder, self.heads, strict=True):
            x = stage(torch.cat([upsample(x), skips.pop()], dim=1))
            if is_supervised_deeply or not skips:
                outputs.insert(0, head(x))
        return outputs if is_supervised_deeply else outputs[0]


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights: Kaiming normal for a slope of 0.01, biases 0, residual blocks their shortcut.

    Raises:
        ValueError: strides and kernel sizes do not make a network of `problem.spatial_dims` dimensions, or a stage
            would have no residual block.
    """
    return UNet(config, problem)
