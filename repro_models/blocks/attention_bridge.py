"""Bridge that weighs skip connections by spatial, then channel attention (UltraLight VM-UNet, arXiv 2403.20035).

H-vmunet (arXiv 2403.13642) has the same.

Differs:
    - The second residual adds what spatial attention weighed, without the map itself, as the authors' code has it.
Shapes:
    B batch, C channels of a map, X Y its pixels, S channels of all maps together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SpatialAttention(nn.Module):
    """Weights of pixels, by one convolution for all maps: (B, C, X, Y) -> (B, 1, X, Y), from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=9, dilation=3)

    def forward(self, x: Tensor) -> Tensor:
        """It sees the mean and the maximum over channels."""
        return torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)))


class ChannelAttention(nn.Module):
    """Weights of the channels of every map, each from the means of all maps.

    Args:
        features: channels of each map.
        is_convolution: layers that give the weights are convolutions of side 1, else linear; the function is the same.
    """

    def __init__(self, features: Sequence[int], is_convolution: bool) -> None:
        super().__init__()
        total = sum(features)
        self.mixing = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.is_convolution = is_convolution
        self.layers = nn.ModuleList(
            nn.Conv1d(total, channels, 1) if is_convolution else nn.Linear(total, channels) for channels in features
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Each (B, C, X, Y) -> each (B, C, 1, 1), from 0 to 1."""
        means = torch.cat([x.mean((2, 3)) for x in maps], dim=1)
        mixed = self.mixing(means.unsqueeze(1))  # (B, 1, S)
        mixed = mixed.transpose(1, 2) if self.is_convolution else mixed.squeeze(1)
        return [
            torch.sigmoid(layer(mixed)).reshape(x.shape[0], -1, 1, 1)
            for layer, x in zip(self.layers, maps, strict=True)
        ]


class AttentionBridge(nn.Module):
    """Spatial attention, then channel attention, around each a residual.

    Args:
        features: channels of each map, finest first.
        is_convolution: see `ChannelAttention`.
    """

    def __init__(self, features: Sequence[int], is_convolution: bool = False) -> None:
        super().__init__()
        self.spatial = SpatialAttention()
        self.channel = ChannelAttention(features, is_convolution)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Each (B, C, X, Y) -> the same shapes."""
        weighted = [self.spatial(x) * x for x in maps]
        raised = [w + x for w, x in zip(weighted, maps, strict=True)]
        weights = self.channel(raised)
        return [weight * x + w for weight, x, w in zip(weights, raised, weighted, strict=True)]
