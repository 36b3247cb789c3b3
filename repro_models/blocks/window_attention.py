"""Self-attention in shifted windows with a relative position bias, in two or three dimensions.

Source: Swin Transformer (Liu et al., 2021, arXiv 2103.14030), section 3.2 and equation 4.

Maps are padded with zeros at the far end to whole windows, as the paper says (footnote to section 3.2); what was padded
is attended to like the rest. Along an axis that is no longer than the window, the window is as long as the axis and is
not shifted.

Differs:
    - Positions of another region get the weight 0; the authors' code subtracts 100 before the softmax.
    - In a window cut short to its axis, the bias is looked up by the offset of two positions. The code of Swin UNETR
      looks it up by their numbers in the full window, which are other offsets unless the first axis alone is cut;
      `has_authors_bias_index` restores it, for weights that were trained so.
Shapes:
    B batch, C channels, X Y (Z) positions, H heads, W windows, N positions of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def split_into_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """(B, X, Y, (Z,) C), sides multiples of the window's -> (B, W, N, C)."""
    batch, *size, channels = x.shape
    dims = len(window)
    parts = [part for side, width in zip(size, window, strict=True) for part in (side // width, width)]
    order = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1]
    return x.reshape(batch, *parts, channels).permute(order).reshape(batch, -1, math.prod(window), channels)


def join_windows(windows: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """Inverse of `split_into_windows`: (B, W, N, C) -> (B, *size, C)."""
    batch, channels = windows.shape[0], windows.shape[-1]
    dims = len(window)
    counts = [side // width for side, width in zip(size, window, strict=True)]
    order = [0, *(place for axis in range(dims) for place in (1 + axis, 1 + dims + axis)), 1 + 2 * dims]
    return windows.reshape(batch, *counts, *window, channels).permute(order).reshape(batch, *size, channels)


def relative_index(window: Sequence[int], full_window: Sequence[int], device: torch.device) -> Tensor:
    """Row of the bias table for every pair of positions.

    Args:
        window: the window, no longer than `full_window` on any axis.
        full_window: the window that the table is made for; it has a row for each of its offsets, the last axis first.
        device: of the result.

    Returns:
        (N, N) int64: query, key.
    """
    grid = torch.meshgrid(*(torch.arange(width, device=device) for width in window), indexing="ij")
    index = torch.zeros(math.prod(window), math.prod(window), dtype=torch.int64, device=device)
    for position, width in zip(grid, full_window, strict=True):
        offset = position.reshape(-1, 1) - position.reshape(1, -1)
        index = index * (2 * width - 1) + offset + width - 1
    return index


def same_region(size: Sequence[int], window: Sequence[int], shift: Sequence[int], device: torch.device) -> Tensor:
    """Which positions of a window were neighbours before the map was shifted around its border (figure 4).

    Returns:
        (W, 1, N, N) bool.
    """
    region = torch.zeros(*size, 1, dtype=torch.int64, device=device)
    for axis, (side, width, step) in enumerate(zip(size, window, shift, strict=True)):
        place = torch.arange(side, device=device)
        part = (place >= side - width).long() + (place >= side - step).long()
        region = 3 * region + part.reshape([-1 if other == axis else 1 for other in range(len(size) + 1)])
    numbers = split_into_windows(region[None], window)[0]
    return (numbers == numbers.transpose(1, 2)).unsqueeze(1)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows.

    Args:
        channels: C, a multiple of `num_heads`.
        num_heads: H.
        window: positions per axis.
        is_shifted: move the windows by half their sides.
        has_authors_bias_index: see the head of this file.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window: Sequence[int],
        is_shifted: bool,
        has_authors_bias_index: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = tuple(window)
        self.is_shifted = is_shifted
        self.has_authors_bias_index = has_authors_bias_index
        self.bias_table = nn.Parameter(torch.empty(math.prod(2 * width - 1 for width in window), num_heads))
        self.query_key_value = nn.Linear(channels, 3 * channels)
        self.projection = nn.Linear(channels, channels)
        nn.init.normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, X, Y, (Z,) C) -> the same shape."""
        size = x.shape[1:-1]
        window = [min(side, width) for side, width in zip(size, self.window, strict=True)]
        shift = [
            width // 2 if self.is_shifted and side > width else 0 for side, width in zip(size, self.window, strict=True)
        ]
        axes = tuple(range(1, len(size) + 1))
        borders = [-side % width for side, width in zip(size, window, strict=True)]
        if any(borders):
            x = functional.pad(x, (0, 0, *(end for border in reversed(borders) for end in (0, border))))
        padded = x.shape[1:-1]
        if any(shift):
            x = torch.roll(x, [-step for step in shift], axes)
        bias = self._bias(window).unsqueeze(0)
        if any(shift):
            bias = bias.masked_fill(~same_region(padded, window, shift, x.device), -math.inf)
        x = join_windows(self._attend(split_into_windows(x, window), bias), window, padded)
        if any(shift):
            x = torch.roll(x, shift, axes)
        for axis, side in zip(axes, size, strict=True):
            x = x.narrow(axis, 0, side)
        return x

    def _bias(self, window: Sequence[int]) -> Tensor:
        """(H, N, N)."""
        if self.has_authors_bias_index:
            num_positions = math.prod(window)
            index = relative_index(self.window, self.window, self.bias_table.device)[:num_positions, :num_positions]
        else:
            index = relative_index(window, self.window, self.bias_table.device)
        return functional.embedding(index, self.bias_table).permute(2, 0, 1)

    def _attend(self, windows: Tensor, bias: Tensor) -> Tensor:
        """Equation 4: (B, W, N, C) and (1 or W, H, N, N) -> (B, W, N, C)."""
        heads = self.query_key_value(windows).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(3, 0, 1, 4, 2, 5).unbind(0)  # each (B, W, H, N, C / H)
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + bias
        return self.projection((scores.softmax(-1) @ value).transpose(2, 3).flatten(3))
