"""Patch merging of the Swin transformer (Liu et al., 2021, arXiv 2103.14030, section 3.1), in two or three dimensions.

Shapes:
    B batch, C channels, *spatial positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PatchMerging(nn.Module):
    """Join the 2^dims neighbours of a patch: (B, *spatial, C), even sides -> (B, *halved spatial, 2 C).

    Args:
        spatial_dims: 2 or 3.
        channels: C.
        corners: which neighbours, in order, each a step of 0 or 1 along every axis; None: every one once.
    """

    def __init__(self, spatial_dims: int, channels: int, corners: Sequence[tuple[int, ...]] | None = None) -> None:
        super().__init__()
        if corners is None:
            # The order of the reference code: by distance from the first corner, then the first axis first.
            every = itertools.product((0, 1), repeat=spatial_dims)
            corners = sorted(every, key=lambda corner: (sum(corner), [-step for step in corner]))
        self.corners = list(corners)
        self.norm = nn.LayerNorm(len(self.corners) * channels)
        self.reduction = nn.Linear(len(self.corners) * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Take the neighbours apart, normalise them together and halve their channels."""
        neighbours = [x[(slice(None), *(slice(step, None, 2) for step in corner))] for corner in self.corners]
        return self.reduction(self.norm(torch.cat(neighbours, dim=-1)))
