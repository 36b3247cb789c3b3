"""LightM-UNet (Liao et al., 2024, arXiv 2403.05246).

Figure 1: the frame of MONAI's SegResNet. Encoder and bottleneck mix all voxels of a map by Mamba layers; the decoder
has separable convolutions, adds its skip connections and interpolates linearly.

Differs:
    - The size is that of the authors' trainer, 5,015,766 parameters in 3D. The paper claims 1.09 million; the released
      code has no such configuration (its issue 30 asks).
    - Mamba's block as it is, as in the authors' code; the paper names a vision state-space module (issue 31).
    - A Mamba layer adds its scaled input as it was before the normalisation, as in the authors' code.
Shapes:
    B batch, C channels, X Y (Z) voxels, K classes, L levels, F base features. Level i has F * 2^i channels and sides of
    1 / 2^i.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro_models.blocks.mamba_mixer import mamba
from repro_models.blocks.residual_conv_block import CONV
from repro_models.blocks.vision_transformer import tokens_as_map
from repro_models.contract import Constraints, Paper, Problem, Variant

PAPER = Paper(
    title="LightM-UNet: Mamba Assists in Lightweight UNet for Medical Image Segmentation",
    year=2024,
    address="https://arxiv.org/abs/2403.05246",
    reference_code="https://github.com/MrBlankness/LightM-UNet",
)

_NUM_GROUPS = 8
_MAX_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Config:
    """Size; the defaults are those of the authors' trainer.

    Attributes:
        base_features: F, a multiple of 8, the groups of a normalisation.
        encoder_blocks: of each of the L levels, the bottleneck last; a block has two Mamba layers.
        decoder_blocks: of each level but the bottleneck, the coarsest first.
    """

    base_features: int = 32
    encoder_blocks: tuple[int, ...] = (1, 2, 2, 4)
    decoder_blocks: tuple[int, ...] = (1, 1, 1)


_COUNTED = "counted in the authors' code"
VARIANTS = {
    "lits": Variant(Config(), Problem(spatial_dims=3, in_channels=1, num_classes=3), 5_015_766, _COUNTED),
    "montgomery_shenzhen": Variant(Config(), Problem(2, 3, 3), 5_011_798, _COUNTED),
    "small": Variant(Config(base_features=8), Problem(3, 1, 2), 381_813, f"{_COUNTED}, the defaults of its class"),
    "reference_small": Variant(
        Config(base_features=8, encoder_blocks=(1, 1, 1, 1)), Problem(3, 2, 5), 129_929, _COUNTED
    ),
    "tiny": Variant(
        Config(base_features=8, encoder_blocks=(1, 1), decoder_blocks=(1,)), Problem(3, 1, 3), None, "ours"
    ),
}


def _divisor(config: Config) -> int:
    return int(2 ** (len(config.encoder_blocks) - 1))


CONSTRAINTS = Constraints(spatial_dims=(2, 3), divisor=_divisor, smallest_side=_divisor)


def _separable_conv(
    spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = False
) -> nn.Sequential:
    """(B, in_channels, *spatial) -> (B, out_channels, *spatial): each channel by itself, then all at each voxel."""
    conv = CONV[spatial_dims]
    return nn.Sequential(
        conv(in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=in_channels, bias=bias),
        conv(in_channels, out_channels, 1, bias=bias),
    )


class _MambaLayer(nn.Module):
    """Mix all voxels and project: (B, in_channels, *spatial) -> (B, out_channels, *spatial)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_channels)
        self.mamba = mamba(in_channels)
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.projection = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """The same normalisation stands before the scan and behind it."""
        tokens = x.flatten(2).transpose(1, 2)
        mixed = self.mamba(self.norm(tokens)) + self.skip_scale * tokens
        return tokens_as_map(self.projection(self.norm(mixed)), x.shape[2:])


class _MambaBlock(nn.Sequential):
    """Two Mamba layers, each behind a normalisation and a ReLU, beside a shortcut; (B, C, *spatial) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.GroupNorm(_NUM_GROUPS, channels),
            nn.ReLU(inplace=True),
            _MambaLayer(channels, channels),
            nn.GroupNorm(_NUM_GROUPS, channels),
            nn.ReLU(inplace=True),
            _MambaLayer(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class _DecoderBlock(nn.Module):
    """Separable convolution beside a scaled shortcut: (B, C, *spatial) -> the same shape."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Sequential(
            nn.GroupNorm(_NUM_GROUPS, channels),
            nn.ReLU(inplace=True),
            _separable_conv(spatial_dims, channels, channels),
        )
        self.skip_scale = nn.Parameter(torch.ones(1))
        self.last = nn.Sequential(nn.GroupNorm(_NUM_GROUPS, channels), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.convolution(x) + self.skip_scale * x)


class LightMUNet(nn.Module):
    """Encoder of L levels, the last one the bottleneck, and decoder of L - 1.

    Args:
        config: size.
        problem: dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims, features = problem.spatial_dims, config.base_features
        self.config = config
        self.stem = _separable_conv(dims, problem.in_channels, features)
        self.encoder = nn.ModuleList()
        for level, num_blocks in enumerate(config.encoder_blocks):
            channels = features * 2**level
            # Channels double at the finer level's voxels, which halve only then.
            entry = [_MambaLayer(channels // 2, channels), _MAX_POOL[dims](2)] if level else []
            self.encoder.append(nn.Sequential(*entry, *(_MambaBlock(channels) for _ in range(num_blocks))))
        self.upsampling, self.decoder = nn.ModuleList(), nn.ModuleList()
        for num_blocks, level in zip(config.decoder_blocks, reversed(range(len(config.decoder_blocks))), strict=True):
            channels = features * 2**level
            self.upsampling.append(
                nn.Sequential(
                    CONV[dims](2 * channels, channels, 1, bias=False), nn.Upsample(scale_factor=2, mode=_LINEAR[dims])
                )
            )
            self.decoder.append(nn.Sequential(*(_DecoderBlock(dims, channels) for _ in range(num_blocks))))
        self.head = nn.Sequential(
            nn.GroupNorm(_NUM_GROUPS, features),
            nn.ReLU(inplace=True),
            _separable_conv(dims, features, problem.num_classes, kernel_size=1, bias=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, *spatial).

        Returns:
            (B, K, *spatial).

        Raises:
            IllegalSizeError: a side is no multiple of 2^(L - 1).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        x = self.stem(x)
        skips: list[Tensor] = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        skips.pop()
        for upsample, blocks in zip(self.upsampling, self.decoder, strict=True):
            x = blocks(upsample(x) + skips.pop())
        return self.head(x)


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights: torch's, and Mamba's for its blocks.

    Raises:
        ValueError: channels that do not make 8 groups, a single level, a level without blocks, or levels of the decoder
            that do not match those of the encoder.
    """
    encoder, decoder = config.encoder_blocks, config.decoder_blocks
    if config.base_features < 1 or config.base_features % _NUM_GROUPS:
        raise ValueError(
            f"base_features={config.base_features}: must be a multiple of {_NUM_GROUPS}, the groups of a normalisation"
        )
    if len(encoder) < 2 or len(decoder) != len(encoder) - 1:
        raise ValueError(
            f"encoder_blocks={encoder} and decoder_blocks={decoder}: give two levels or more, and the decoder one less "
            "than the encoder"
        )
    if min(*encoder, *decoder) < 1:
        raise ValueError(f"encoder_blocks={encoder} and decoder_blocks={decoder}: every level needs at least 1 block")
    return LightMUNet(config, problem)
