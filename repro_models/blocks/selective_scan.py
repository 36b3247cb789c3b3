"""Selective scan: the recurrence of a selective state space (Mamba, Gu and Dao, 2023, arXiv 2312.00752, section 3.2).

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t
    y_t = C_t h_t + D u_t

with the simplified discretisation of B that the authors' code has (equation 4 of the paper has the exact one).

Shapes:
    B batch, L steps, E channels, N states of a channel, G groups of channels that share B and C.
"""

from __future__ import annotations

import torch
from torch import Tensor


def selective_scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None, *, is_reversed: bool = False
) -> Tensor:
    """The outputs y of the recurrence.

    Args:
        u: (B, L, E).
        delta: (B, L, E), step sizes, not negative.
        a: (E, N), A, negative.
        b: (B, L, N) or (B, L, G, N); the first E / G channels belong to the first group, and so on.
        c: of the shape of `b`.
        d: (E,), or None for no direct path.
        is_reversed: run from the last step to the first: what flipping all inputs and the result would give.

    Returns:
        (B, L, E), of the type of `u`; sums are taken in float32 or better.
    """
    grouped_b, grouped_c = (x if x.ndim == 4 else x.unsqueeze(2) for x in (b, c))
    repeats = u.shape[2] // grouped_b.shape[2]
    steps = range(u.shape[1])
    decays = torch.exp(delta.unsqueeze(-1) * a).unbind(1)
    inputs = ((delta * u).unsqueeze(-1) * grouped_b.repeat_interleave(repeats, 2)).unbind(1)
    state = torch.zeros_like(inputs[0])
    states = []
    for step in reversed(steps) if is_reversed else steps:
        state = torch.addcmul(inputs[step], decays[step], state)
        states.append(state)
    if is_reversed:
        states.reverse()
    y = (torch.stack(states, 1) * grouped_c.repeat_interleave(repeats, 2)).sum(-1)
    return y if d is None else y + d * u
