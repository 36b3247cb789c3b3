"""Selective scan of a map in four directions, SS2D of VMamba (Liu et al., 2024, arXiv 2401.10166).

Row by row from the first pixel to the last, column by column likewise, and both reversed; the four results are added
up. As VM-UNet and H-vmunet have it: B and C of every direction from the pixel alone, one norm for the sum.

Shapes:
    B batch, X Y pixels, L = X Y steps, C channels, E inner channels, N states of a channel, R rank of the step sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.mamba_mixer import MambaMixer, rank_of_steps, start_step_sizes
from repro_models.blocks.selective_scan import selective_scan

_NUM_DIRECTIONS = 4  # rows, columns, rows reversed, columns reversed


class CrossScan(nn.Module):
    """Depthwise convolution, SiLU, scans in four directions, norm of their sum: (B, X, Y, E) -> the same shape.

    Args:
        channels: E.
        num_states: N.
        kernel_size: odd, pixels that the convolution sees along both axes.
        rank: R.
    """

    def __init__(self, channels: int, num_states: int, kernel_size: int, rank: int) -> None:
        super().__init__()
        self.sizes = (rank, num_states, num_states)
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.selection = nn.Parameter(torch.empty(_NUM_DIRECTIONS, sum(self.sizes), channels))
        self.step_weight = nn.Parameter(torch.empty(_NUM_DIRECTIONS, channels, rank))
        self.step_bias = nn.Parameter(torch.empty(_NUM_DIRECTIONS, channels))
        states = torch.arange(1, num_states + 1, dtype=torch.float32)
        self.log_a = nn.Parameter(states.log().repeat(_NUM_DIRECTIONS * channels, 1))
        self.d = nn.Parameter(torch.ones(_NUM_DIRECTIONS * channels))
        self.norm = nn.LayerNorm(channels)
        nn.init.uniform_(self.selection, -(channels**-0.5), channels**-0.5)
        start_step_sizes(self.step_weight, self.step_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Rows and columns are two groups of channels of one sequence, scanned once forward and once reversed."""
        x = functional.silu(self.conv(x.movedim(-1, 1)).movedim(1, -1))
        u = torch.cat([x.flatten(1, 2), x.transpose(1, 2).flatten(1, 2)], dim=2)  # (B, L, 2 E)
        # What is selected depends on the pixel alone: it is computed in rows and put into columns where it is small.
        selected = functional.linear(x, self.selection.flatten(0, 1)).unflatten(-1, (2, 2, -1))
        rows, columns = selected.unbind(-2)  # each (B, X, Y, 2 ways, R + 2 N)
        selected = torch.stack([rows.flatten(1, 2), columns.transpose(1, 2).flatten(1, 2)], dim=3)
        forward, reverse = selected.unbind(2)
        y = self._one_way(u, forward, 0) + self._one_way(u, reverse, 1)
        rows, columns = y.chunk(2, dim=2)
        return self.norm(rows.unflatten(1, x.shape[1:3]) + columns.unflatten(1, x.shape[2:0:-1]).transpose(1, 2))

    def _one_way(self, u: Tensor, selected: Tensor, way: int) -> Tensor:
        """(B, L, 2 E) and (B, L, 2, R + 2 N) -> (B, L, 2 E); `way` is 0 forward, 1 reversed."""
        rows, columns = 2 * way, 2 * way + 1
        steps, b, c = selected.split(self.sizes, dim=3)
        weights = self.step_weight.unbind(0)
        steps = torch.cat(
            [functional.linear(steps[:, :, 0], weights[rows]), functional.linear(steps[:, :, 1], weights[columns])], 2
        )
        delta = functional.softplus(steps + self.step_bias.unflatten(0, (2, 2))[way].flatten())
        a = -self.log_a.chunk(2)[way].exp()
        return selective_scan(u, delta, a, b, c, self.d.chunk(2)[way], is_reversed=way == 1)


def cross_scan_mixer(channels: int, num_states: int = 16, kernel_size: int = 3, expand: int = 2) -> MambaMixer:
    """Mamba's block around a `CrossScan`: (B, X, Y, C) -> the same shape; E is `expand` times C."""
    inner = expand * channels
    return MambaMixer(channels, inner, CrossScan(inner, num_states, kernel_size, rank_of_steps(channels)))
