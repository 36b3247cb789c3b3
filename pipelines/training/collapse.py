"""A training that has learned nothing by a tenth of its budget: noticed once, and begun anew with gentler steps.

A network whose steps are too large for its data may come to call everything background and never leave that again: its
Dice stays exactly 0. nnU-Net v1 looks once, at epoch 100 of 1000; where the validation Dice is still 0 it draws the
weights anew and lowers the momentum from 0.99 to 0.95. nnunetv2 2.8.1 has nothing of the kind.

Ours looks at the end of the first epoch by which a tenth of the budget and `MIN_STEPS` steps are done. The schedule
goes on where it is. Where there is no momentum to lower, the learning rate falls to a fifth, which is a judgement:
momentum 0.99 adds a gradient that lasts up to 100 times itself, 0.95 to 20 times.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from pipelines.training.optimizer import DEFAULT_MOMENTUM
from pipelines.training.task import TrainingTask

SHARE_OF_BUDGET = 0.1
# Nothing can be said of a training so short: it may score 0 this long, and then learn.
MIN_STEPS = 1000
MOMENTUM = 0.95
RATE_DIVISOR = 5


def is_due(share_done: float, step: int) -> bool:
    """Whether a training that was not judged before is judged at the end of this epoch.

    Args:
        share_done: of the budget, 0 to 1.
        step: steps done.
    """
    return share_done >= SHARE_OF_BUDGET and step >= MIN_STEPS


def has_collapsed(scores: dict[str, float], score_name: str) -> bool:
    """Whether the score of a validation is 0, or its loss NaN because the weights are; without scores it has not.

    Args:
        scores: what the validation gave.
        score_name: key of the score, 0 where nothing is right.
    """
    return scores.get(score_name) == 0 or math.isnan(scores.get("loss", 0.0))


def rescue(
    optimizer: dict[str, Any], scores: dict[str, float], score_name: str, epoch: int, step: int
) -> dict[str, Any]:
    """Say what to do about a collapse.

    Args:
        optimizer: arguments of `build_optimizer` so far.
        scores: what the validation gave; none on a rank that did not validate.
        score_name: key of the score that is 0.
        epoch: that has just ended, from 0.
        step: steps done.

    Returns:
        Plain values: `epoch`, `step`, `optimizer` (the arguments from here on) and `message`, a sentence for people.
    """
    rate, momentum = optimizer["learning_rate"], optimizer.get("momentum", DEFAULT_MOMENTUM)
    if optimizer["name"] == "sgd" and momentum > MOMENTUM:
        gentler, answer = {"momentum": MOMENTUM}, f"the momentum lowered from {momentum:g} to {MOMENTUM:g}"
    else:
        lowered = rate / RATE_DIVISOR
        gentler, answer = {"learning_rate": lowered}, f"the learning rate lowered from {rate:g} to {lowered:g}"
    what = f"{score_name.replace('_', ' ')} was still 0"
    if math.isnan(scores.get("loss", 0.0)):
        what = "validation loss was NaN"
    message = f"The {what} after {step:,} steps, so the weights were drawn anew and {answer}."
    return {"epoch": epoch, "step": step, "optimizer": optimizer | gentler, "message": message}


def redraw_weights(network: nn.Module, task: TrainingTask, seed: int, step: int) -> None:
    """Give `network` first weights once more, in place; others than at the start, the same on every rank.

    Also what the network draws from here on is decided by `seed` and `step`.
    """
    # Not the first weights again, which may be at fault, and no other seed's.
    torch.manual_seed(int(np.random.default_rng([seed, step]).integers(2**63)))
    network.load_state_dict(task.build_network().state_dict())
