"""Patch expanding, the counterpart of patch merging: Swin-Unet (Cao et al., 2021, arXiv 2105.05537, section 3.5).

Shapes:
    B batch, C channels, *spatial positions, r factor.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from repro_models.blocks.window_attention import join_windows


class PatchExpanding(nn.Module):
    """Make r^dims patches of each by a linear layer: (B, *spatial, C) -> (B, *spatial * r, out_channels).

    Args:
        spatial_dims: 2 or 3.
        channels: C.
        out_channels: of each new patch.
        factor: r.
    """

    def __init__(self, spatial_dims: int, channels: int, out_channels: int, factor: int = 2) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.factor = factor
        self.expansion = nn.Linear(channels, factor**spatial_dims * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Channels of the linear layer are read as place in the patch, the first axis first, then channel."""
        window = (self.factor,) * self.spatial_dims
        sides = [side * self.factor for side in x.shape[1:-1]]
        places = self.expansion(x).flatten(1, -2).unflatten(-1, (math.prod(window), -1))
        return self.norm(join_windows(places, window, sides))
