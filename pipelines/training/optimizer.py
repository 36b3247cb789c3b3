"""The optimisers a plan may name."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

NAMES = ("sgd", "adamw")


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    *,
    name: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float = 0.99,
) -> torch.optim.Optimizer:
    """Build the optimiser over all `parameters`, each decayed alike as in nnU-Net.

    Args:
        parameters: of the network.
        name: `sgd` (with Nesterov momentum) or `adamw` (its usual moments, 0.9 and 0.999).
        learning_rate: the initial one; the schedule scales it.
        weight_decay: coupled in `sgd`, decoupled in `adamw`.
        momentum: of `sgd`; 0 is plain gradient descent. `adamw` has none.

    Raises:
        ValueError: the name is unknown.
    """
    if name == "sgd":
        return torch.optim.SGD(
            parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0
        )
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    raise ValueError(f"optimizer {name!r} is unknown; choose one of {', '.join(NAMES)}")


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
