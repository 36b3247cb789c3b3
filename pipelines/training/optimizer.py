"""The optimisers a plan may name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

NAMES = ("sgd", "adam", "adamw")
DEFAULT_MOMENTUM = 0.99


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    name: str,
    learning_rate: float,
    weight_decay: float,
    momentum: float = DEFAULT_MOMENTUM,
    decayed: Sequence[str] = ("*",),
) -> torch.optim.Optimizer:
    """Build the optimiser over all parameters.

    Args:
        named_parameters: of the network.
        name: `sgd` (with Nesterov momentum), `adam` or `adamw` (both with their usual moments, 0.9 and 0.999).
        learning_rate: the initial one; the schedule scales it.
        weight_decay: coupled in `sgd` and `adam` (half its product with the squared weights is part of the loss),
            decoupled in `adamw`.
        momentum: of `sgd`; 0 is plain gradient descent. The others have none.
        decayed: patterns of the names of the parameters that decay, as of files: `*` is all, as in nnU-Net.

    Raises:
        ValueError: the name is unknown, or a pattern fits no parameter.
    """
    groups = _groups(list(named_parameters), weight_decay, decayed)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0)
    if name == "adam":
        return torch.optim.Adam(groups, lr=learning_rate)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate)
    raise ValueError(f"optimizer {name!r} is unknown; choose one of {', '.join(NAMES)}")


def _groups(
    named_parameters: list[tuple[str, nn.Parameter]], weight_decay: float, decayed: Sequence[str]
) -> list[dict[str, object]]:
    """What decays, and what does not, where there is such."""
    for pattern in decayed:
        if named_parameters and not any(fnmatchcase(name, pattern) for name, _ in named_parameters):
            raise ValueError(
                f"optimizer.decayed has {pattern!r}, which fits no parameter of the network; parameters are "
                f"{', '.join(name for name, _ in named_parameters)}"
            )
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in named_parameters:
        parts[any(fnmatchcase(name, pattern) for pattern in decayed)].append(parameter)
    groups: list[dict[str, object]] = [{"params": parts[True], "weight_decay": weight_decay}]
    return groups + ([{"params": parts[False], "weight_decay": 0.0}] if parts[False] else [])


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
