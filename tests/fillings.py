"""Two fixed fillings of a network's parameters, and the comparison with an output that was stored under them.

Constant filling: every parameter 0.01. Sine filling, i = 0, 1, ... in memory order: a tensor of two dimensions or more
gets sqrt(2 / (numel / shape[0])) sin(i + 1); a one-dimensional `...weight` 1 + 0.1 sin(i + 1); the rest 0.1 sin(i + 1).
Input: evenly spaced values from 0 to 1. The stored numbers have seven digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn


def fill(network: nn.Module, filling: str) -> None:
    """Fill all parameters: `filling` is "constant" or "sine"."""
    for name, parameter in network.named_parameters():
        if filling == "constant":
            parameter.data.fill_(0.01)
            continue
        # In place, because the largest layers have a hundred million weights.
        values = torch.arange(1, parameter.numel() + 1, dtype=torch.float64).sin_().reshape(parameter.shape)
        if parameter.ndim >= 2:
            values.mul_(math.sqrt(2 * parameter.shape[0] / parameter.numel()))
        elif name.endswith("weight"):
            values.mul_(0.1).add_(1)
        else:
            values.mul_(0.1)
        parameter.data.copy_(values)


def golden_output(network: nn.Module, filling: str, input_shape: Sequence[int], is_training: bool = False) -> Any:
    """Output of the filled network in float64, in evaluation mode unless `is_training`."""
    network = network.double().train(is_training)
    fill(network, filling)
    x = torch.linspace(0, 1, math.prod(input_shape), dtype=torch.float64).reshape(*input_shape)
    with torch.no_grad():
        return network(x)


def assert_golden(output: Tensor, total: float, mean: float, std: float, first: Sequence[float]) -> None:
    """Sum, mean, standard deviation and first values equal the stored ones.

    Seven digits are stored: half a unit of the last one, doubled for the rounding of the reference itself.
    """
    assert output.sum().item() == pytest.approx(total, rel=1e-6)
    assert output.mean().item() == pytest.approx(mean, rel=1e-6)
    assert output.std(correction=0).item() == pytest.approx(std, rel=1e-6, abs=1e-10)
    assert output.flatten()[: len(first)].tolist() == pytest.approx(list(first), rel=1e-6)


def num_parameters(network: nn.Module) -> int:
    """Parameters, trainable or not."""
    return sum(parameter.numel() for parameter in network.parameters())
