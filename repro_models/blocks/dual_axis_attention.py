"""Attention of rows to rows and columns to columns: ScaleFormer (Huang et al., 2022, arXiv 2207.14552).

Differs:
    - The authors' code reads the table of tokens and channels that comes out as one of channels and tokens, which mixes
      them up; `has_scrambled_tokens` restores it.
    - Position biases start at 0; the authors' code leaves them as the memory was.
Shapes:
    B batch, C channels, X Y positions, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class _AxisWeights(nn.Module):
    """Attention of the lines along one axis to each other: (B, C, X, Y) -> (B, H, s, s), s the side of that axis.

    Args:
        channels: C.
        num_heads: H.
        side: s.
        axis: 2 or 3; the other one is averaged over.
    """

    def __init__(self, channels: int, num_heads: int, side: int, axis: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.other_axis = 5 - axis
        self.query_conv, self.key_conv = (nn.Conv2d(channels, channels, 3, padding=1, groups=channels) for _ in "qk")
        self.query, self.key = (nn.Linear(channels, channels) for _ in "qk")
        self.position_bias = nn.Parameter(torch.zeros(1, num_heads, side, side))

    def forward(self, x: Tensor) -> Tensor:
        query = self._heads(self.query(self.query_conv(x).mean(self.other_axis).transpose(1, 2)))
        key = self._heads(self.key(self.key_conv(x).mean(self.other_axis).transpose(1, 2)))
        return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + self.position_bias).softmax(-1)

    def _heads(self, lines: Tensor) -> Tensor:
        """(B, s, C) -> (B, H, s, C / H)."""
        return lines.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class DualAxisAttention(nn.Module):
    """Rows attend to rows, columns to columns, as products with the values from the left and from the right.

    As in the paper, the weights of the columns are not transposed: what a column gives to all adds up to one, not what
    it takes.

    Args:
        channels: C, a multiple of `num_heads`.
        num_heads: H.
        sides: of the maps it takes.
        has_scrambled_tokens: see the head of this file.
    """

    def __init__(self, channels: int, num_heads: int, sides: Sequence[int], has_scrambled_tokens: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.has_scrambled_tokens = has_scrambled_tokens
        self.rows = _AxisWeights(channels, num_heads, sides[0], axis=2)
        self.columns = _AxisWeights(channels, num_heads, sides[1], axis=3)
        self.value_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.value = nn.Linear(channels, channels)
        self.projection = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y) -> the same shape."""
        value = self.value(self.value_conv(x).movedim(1, -1)).unflatten(-1, (self.num_heads, -1))
        value = value.permute(0, 3, 1, 4, 2)  # (B, H, X, C / H, Y)
        mixed = (self.rows(x) @ value.flatten(3)).reshape(value.shape).flatten(2, 3) @ self.columns(x)
        mixed = mixed.reshape(value.shape).permute(0, 2, 4, 1, 3).flatten(3)  # (B, X, Y, C)
        projected = self.projection(mixed)
        return projected.reshape(x.shape) if self.has_scrambled_tokens else projected.movedim(-1, 1)
