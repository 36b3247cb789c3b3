"""V-Net (Milletari et al., 2016, arXiv 1606.04797).

Figure 2: five resolutions, each a residual function of one to three convolutions of side 5; strided convolutions
instead of pooling, PReLU, no normalisation. Trained with a Dice loss (`repro_models/losses/dice.py`).

Differs:
    - The published network description (Caffe) has fewer convolutions at four levels than figure 2;
      `Config(encoder_convs=(1, 2, 3, 3), decoder_convs=(3, 2, 1, 1))` restores it.
    - The image is repeated to the channels of the first level, which it is added to there, and cut where they are no
      multiple of its own; the paper has one channel.
    - Two dimensions too, as in MONAI's `VNet`. That has the convolutions of a port (see the variant `monai`), batch
      normalisation, ELU, an activation after every convolution and dropout of whole channels: fields of `Config`.
    - The paper does not say how weights start; here from a normal of variance 1 over incoming values, biases 0, with
      which a residual function about keeps the scale of its input.
Shapes:
    B batch, C channels, X Y (Z) voxels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro_models.blocks.fan_in_init import init_by_fan_in
from repro_models.blocks.pointwise_conv import POINTWISE_CONV
from repro_models.blocks.residual_conv_block import CONV, TRANSPOSED_CONV
from repro_models.blocks.two_convs import NORM, check_norm
from repro_models.contract import Constraints, Paper, Problem, Variant

PAPER = Paper(
    title="V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
    year=2016,
    address="https://arxiv.org/abs/1606.04797",
    reference_code="https://github.com/faustomilletari/VNet",
)

_ACTIVATIONS = ("prelu", "elu")
# MONAI drops channels at the two lowest levels, and of all skip connections.
_NUM_DROPPED_LEVELS = 2


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are figure 2's.

    Attributes:
        base_features: channels of the first level; each coarser one has twice as many.
        encoder_convs: convolutions of each level of the left side below the first, which has one.
        decoder_convs: convolutions of each level of the right side, the coarsest first; as many as `encoder_convs`.
        norm: None as in the paper, "batch" or "instance".
        activation: "prelu", with a slope for each channel, or "elu".
        activates_all: an activation after the last convolution of a residual function, too, before the sum.
        dropout_probability: of whole channels.
    """

    base_features: int = 16
    encoder_convs: tuple[int, ...] = (2, 3, 3, 3)
    decoder_convs: tuple[int, ...] = (3, 3, 2, 1)
    norm: str | None = None
    activation: str = "prelu"
    activates_all: bool = False
    dropout_probability: float = 0.0


_MONAI = Config(
    encoder_convs=(1, 2, 3, 2),
    decoder_convs=(2, 2, 1, 1),
    norm="batch",
    activation="elu",
    activates_all=True,
    dropout_probability=0.5,
)

VARIANTS = {
    "paper": Variant(
        Config(),
        Problem(spatial_dims=3, in_channels=1, num_classes=2),
        65_183_258,
        "counted in a transcription of figure 2",
    ),
    "prototxt": Variant(
        Config(encoder_convs=(1, 2, 3, 3), decoder_convs=(3, 2, 1, 1)),
        Problem(3, 1, 2),
        61_982_682,
        "counted in a transcription of the published network description",
        size=(64, 128, 128),
        num_macs=384_638_648_320,
    ),
    "monai": Variant(_MONAI, Problem(3, 1, 1), 45_593_892, "MONAI 1.6.1"),
    "reference_small": Variant(
        Config(base_features=4, encoder_convs=(1, 2, 3, 3), decoder_convs=(3, 2, 1, 1)),
        Problem(3, 1, 2),
        3_876_990,
        "counted in a transcription of the published network description",
    ),
    "small": Variant(
        Config(base_features=6, encoder_convs=(1, 2, 2), decoder_convs=(2, 1, 1)), Problem(3, 1, 2), None, "ours"
    ),
    "tiny": Variant(
        Config(base_features=4, encoder_convs=(1, 2), decoder_convs=(2, 1)), Problem(3, 1, 3), None, "ours"
    ),
}


def _divisor(config: Config) -> int:
    return 2 ** len(config.encoder_convs)


CONSTRAINTS = Constraints(
    spatial_dims=(2, 3),
    divisor=_divisor,
    # A normalisation cannot train on one voxel.
    smallest_side=lambda config: _divisor(config) * (1 if config.norm is None else 2),
)


def _normalised_conv(config: Config, dims: int, in_channels: int, out_channels: int) -> list[nn.Module]:
    """Convolution of side 5; its bias would be lost in a normalisation."""
    conv = CONV[dims](in_channels, out_channels, 5, padding=2, bias=config.norm is None)
    return [conv, *_norm(config, dims, out_channels)]


def _norm(config: Config, dims: int, channels: int) -> list[nn.Module]:
    return [] if config.norm is None else [NORM[config.norm][dims](channels, affine=True)]


def _activation(config: Config, channels: int) -> nn.Module:
    return nn.PReLU(channels) if config.activation == "prelu" else nn.ELU()


class _Residual(nn.Module):
    """A residual function and its sum: (B, C, *spatial) twice -> (B, C, *spatial)."""

    def __init__(self, config: Config, dims: int, channels: int, num_convs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(num_convs):
            layers += _normalised_conv(config, dims, channels, channels)
            if config.activates_all or number < num_convs - 1:
                layers.append(_activation(config, channels))
        self.function = nn.Sequential(*layers)
        self.activation = _activation(config, channels)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return self.activation(self.function(x) + shortcut)


class _Down(nn.Module):
    """Half the sides, twice the channels, then a residual function."""

    def __init__(self, config: Config, dims: int, in_channels: int, num_convs: int, dropout_probability: float) -> None:
        super().__init__()
        channels = 2 * in_channels
        self.downsampling = nn.Sequential(
            CONV[dims](in_channels, channels, 2, stride=2, bias=config.norm is None),
            *_norm(config, dims, channels),
            _activation(config, channels),
        )
        self.dropout = _channel_dropout(dims, dropout_probability)
        self.residual = _Residual(config, dims, channels, num_convs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsampling(x)
        return self.residual(self.dropout(x), x)


class _Up(nn.Module):
    """Twice the sides, joined with the skip connection to `channels`, half of them its own; a residual function."""

    def __init__(
        self, config: Config, dims: int, in_channels: int, channels: int, num_convs: int, dropout_probability: float
    ) -> None:
        super().__init__()
        self.dropout = _channel_dropout(dims, dropout_probability)
        self.skip_dropout = _channel_dropout(dims, config.dropout_probability)
        self.upsampling = nn.Sequential(
            TRANSPOSED_CONV[dims](in_channels, channels // 2, 2, stride=2),
            *_norm(config, dims, channels // 2),
            _activation(config, channels // 2),
        )
        self.residual = _Residual(config, dims, channels, num_convs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat([self.upsampling(self.dropout(x)), self.skip_dropout(skip)], dim=1)
        return self.residual(joined, joined)


def _channel_dropout(dims: int, probability: float) -> nn.Module:
    return nn.Dropout2d(probability) if dims == 2 else nn.Dropout3d(probability)


class VNet(nn.Module):
    """Left and right side, and the head.

    Args:
        config: size and form.
        problem: dimensions, channels and classes.
    """

    def __init__(self, config: Config, problem: Problem) -> None:
        super().__init__()
        dims, num_classes = problem.spatial_dims, problem.num_classes
        num_levels = len(config.encoder_convs)
        widths = [config.base_features * 2**level for level in range(num_levels + 1)]
        # Of the steps between levels, from the finest to the coarsest.
        dropout = [
            config.dropout_probability if level >= num_levels - _NUM_DROPPED_LEVELS else 0.0
            for level in range(num_levels)
        ]
        self.config = config
        self.first = nn.Sequential(*_normalised_conv(config, dims, problem.in_channels, widths[0]))
        self.first_activation = _activation(config, widths[0])
        self.left = nn.ModuleList(
            _Down(config, dims, width, num_convs, probability)
            for width, num_convs, probability in zip(widths, config.encoder_convs, dropout, strict=False)
        )
        # From the coarsest level to the finest.
        self.right = nn.ModuleList()
        in_channels = widths[-1]
        for skip, num_convs, probability in zip(widths[-2::-1], config.decoder_convs, dropout[::-1], strict=True):
            self.right.append(_Up(config, dims, in_channels, 2 * skip, num_convs, probability))
            in_channels = 2 * skip
        self.head = nn.Sequential(
            *_normalised_conv(config, dims, in_channels, num_classes),
            _activation(config, num_classes),
            POINTWISE_CONV[dims](num_classes, num_classes),
        )
        init_by_fan_in(self, gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, *spatial).

        Returns:
            (B, K, *spatial).

        Raises:
            IllegalSizeError: a side is no multiple of 16 (five levels).
        """
        CONSTRAINTS.check_size(self.config, x.shape[2:])
        skips = [self.first_activation(self.first(x) + _repeated(x, self.config.base_features))]
        for level in self.left:
            skips.append(level(skips[-1]))
        x = skips.pop()
        for level in self.right:
            x = level(x, skips.pop())
        return self.head(x)


def _repeated(image: Tensor, channels: int) -> Tensor:
    """Channels of (B, C, *spatial) one after the other, again and again: (B, channels, *spatial)."""
    return torch.cat([image] * -(-channels // image.shape[1]), dim=1)[:, :channels]


def build(config: Config, problem: Problem) -> nn.Module:
    """The network with fresh weights.

    Raises:
        ValueError: `config.norm` or `config.activation` is unknown, both sides have not as many levels, or no such
            dimensions.
    """
    check_norm(config.norm)
    if problem.spatial_dims not in CONSTRAINTS.spatial_dims:
        raise ValueError(f"spatial_dims={problem.spatial_dims}: V-Net serves 2 and 3")
    if config.activation not in _ACTIVATIONS:
        raise ValueError(f"activation={config.activation!r}: must be one of {', '.join(_ACTIVATIONS)}")
    if len(config.encoder_convs) != len(config.decoder_convs) or not config.encoder_convs:
        raise ValueError(
            f"encoder_convs={config.encoder_convs} and decoder_convs={config.decoder_convs}: each side has as many "
            "levels as the other, one at least; give both as many numbers"
        )
    return VNet(config, problem)
