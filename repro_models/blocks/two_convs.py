"""Two convolutions of side 3, as every level of a U-Net has them.

Shapes:
    B batch, C channels, X Y (Z) voxels.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from repro_models.blocks.instance_norm import INSTANCE_NORM
from repro_models.blocks.residual_conv_block import CONV

NORM: dict[str, dict[int, type[nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": INSTANCE_NORM,
}
"""With scale and shift; by name, then by the number of spatial dimensions."""


class TwoConvs(nn.Sequential):
    """Convolution, normalisation, ReLU, dropout; twice.

    (B, channels[0], *spatial) -> (B, channels[2], *spatial), 4 voxels fewer on every axis without padding.

    Args:
        spatial_dims: 2 or 3.
        channels: of the input, between, and of the output.
        norm: key of `NORM`, None for none.
        is_padded: the output has the size of the input.
        negative_slope: of the ReLU.
        dropout_probability: of each value.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: tuple[int, int, int],
        norm: str | None = None,
        is_padded: bool = True,
        negative_slope: float = 0.0,
        dropout_probability: float = 0.0,
    ) -> None:
        layers: list[nn.Module] = []
        for in_channels, out_channels in pairwise(channels):
            layers.append(CONV[spatial_dims](in_channels, out_channels, 3, padding=1 if is_padded else 0))
            if norm is not None:
                layers.append(NORM[norm][spatial_dims](out_channels, affine=True))
            layers.append(nn.LeakyReLU(negative_slope, inplace=True) if negative_slope else nn.ReLU(inplace=True))
            if dropout_probability:
                layers.append(nn.Dropout(dropout_probability))
        super().__init__(*layers)


def check_norm(norm: str | None) -> None:
    """Raise ValueError unless `norm` is a key of `NORM`, or None."""
    if norm is not None and norm not in NORM:
        raise ValueError(f"norm={norm!r}: must be one of {', '.join(NORM)}, or None")
