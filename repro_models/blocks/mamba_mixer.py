"""Mamba's block: project, scan, gate, project back (Gu and Dao, 2023, arXiv 2312.00752, figure 3 and section 3.4).

Differs:
    - B is discretised as in the authors' code, see `selective_scan`.
Shapes:
    B batch, L steps, C channels, E inner channels, N states of a channel, R rank of the step sizes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.selective_scan import selective_scan

# Of step sizes at the start, and the floor under them (the authors' code).
_SMALLEST_STEP, _LARGEST_STEP, _STEP_FLOOR = 1e-3, 1e-1, 1e-4


def start_step_sizes(weight: Tensor, bias: Tensor) -> None:
    """Draw a layer of step sizes, in place: they begin between 0.001 and 0.1, evenly on a logarithmic scale.

    Args:
        weight: (..., E, R).
        bias: (..., E); softplus follows.
    """
    with torch.no_grad():
        weight.uniform_(-(weight.shape[-1] ** -0.5), weight.shape[-1] ** -0.5)
        steps = torch.empty_like(bias).uniform_(math.log(_SMALLEST_STEP), math.log(_LARGEST_STEP)).exp()
        steps = steps.clamp(min=_STEP_FLOOR)
        bias.copy_(steps + (-torch.expm1(-steps)).log())  # the inverse of softplus


class StateSpace(nn.Module):
    """Causal depthwise convolution, SiLU, selective scan: (B, L, E) -> (B, L, E).

    Args:
        channels: E.
        num_states: N.
        kernel_size: steps that the convolution sees, itself and those before.
        rank: R.
    """

    def __init__(self, channels: int, num_states: int, kernel_size: int, rank: int) -> None:
        super().__init__()
        self.sizes = (rank, num_states, num_states)
        self.conv = nn.Conv1d(channels, channels, kernel_size, groups=channels)
        self.selection = nn.Linear(channels, sum(self.sizes), bias=False)
        self.step_size = nn.Linear(rank, channels)
        self.log_a = nn.Parameter(torch.arange(1, num_states + 1, dtype=torch.float32).log().repeat(channels, 1))
        self.d = nn.Parameter(torch.ones(channels))
        start_step_sizes(self.step_size.weight, self.step_size.bias)

    def forward(self, x: Tensor, is_reversed: bool = False) -> Tensor:
        """From the first step to the last; reversed from the last to the first, the result in the order of `x`."""
        weight, past = self.conv.weight, self.conv.kernel_size[0] - 1
        padded = functional.pad(x.transpose(1, 2), (0, past) if is_reversed else (past, 0))
        weight = weight.flip(2) if is_reversed else weight
        convolved = functional.conv1d(padded, weight, self.conv.bias, groups=self.conv.groups).transpose(1, 2)
        x = functional.silu(convolved)
        steps, b, c = self.selection(x).split(self.sizes, dim=2)
        delta = functional.softplus(self.step_size(steps))
        return selective_scan(x, delta, -self.log_a.exp(), b, c, self.d, is_reversed=is_reversed)


class MambaMixer(nn.Module):
    """(B, L, C) -> (B, L, C); steps may lie on several axes, where `scan` takes them so.

    Args:
        channels: C.
        inner_channels: E.
        scan: (B, L, E) -> (B, L, E), a `StateSpace` or several of them in several orders.
    """

    def __init__(self, channels: int, inner_channels: int, scan: nn.Module) -> None:
        super().__init__()
        self.in_projection = nn.Linear(channels, 2 * inner_channels, bias=False)
        self.scan = scan
        self.out_projection = nn.Linear(inner_channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the steps of each sequence."""
        x, gate = self.in_projection(x).chunk(2, dim=-1)
        return self.out_projection(self.scan(x) * functional.silu(gate))


def rank_of_steps(channels: int) -> int:
    """R, the authors' default: a sixteenth of C, rounded up."""
    return math.ceil(channels / 16)


def mamba(channels: int, num_states: int = 16, kernel_size: int = 4, expand: int = 2) -> MambaMixer:
    """The block of the paper: (B, L, C) -> (B, L, C), from the first step to the last; E is `expand` times C."""
    inner = expand * channels
    return MambaMixer(channels, inner, StateSpace(inner, num_states, kernel_size, rank_of_steps(channels)))
