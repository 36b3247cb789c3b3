"""A residual step over a sequence: normalise, mix the steps, add (Gu and Dao, 2023, arXiv 2312.00752, figure 3).

The sum is kept in float32 or better, whatever the mixer computes in, because it runs through all blocks.

Shapes:
    B batch, L steps, C channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from repro_models.blocks.drop_path import DropPath
from repro_models.blocks.mamba_mixer import MambaMixer

RMS_NORM_EPSILON = 1e-5
"""Of the published Mamba networks."""


class ResidualMixer(nn.Module):
    """x + mixer(normalised x): (B, L, C) -> (B, L, C).

    Args:
        channels: C.
        mixer: (B, L, C) -> (B, L, C).
        drop_path_probability: that the mixer is left out of a sample in training.
    """

    def __init__(self, channels: int, mixer: MambaMixer, drop_path_probability: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(channels, eps=RMS_NORM_EPSILON)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path_probability)

    def forward(self, x: Tensor) -> Tensor:
        """The sum, of the type of `x` and at least float32."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x + self.drop_path(self.mixer(self.norm(x.to(self.norm.weight.dtype))))


def shrink_out_projections(blocks: nn.ModuleList) -> None:
    """Divide the last layer of every mixer by the root of their number: so many of them add up (the authors' code).

    Args:
        blocks: a `ResidualMixer` each, changed in place.
    """
    with torch.no_grad():
        for block in blocks:
            assert isinstance(block, ResidualMixer)
            block.mixer.out_projection.weight.div_(math.sqrt(len(blocks)))
