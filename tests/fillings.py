"""Fixed fillings of a network's parameters, and the comparison with an output that was stored under them.

Constant filling: every parameter 0.01. Sine filling, i = 0, 1, ... in memory order: a tensor of two dimensions or more
gets sqrt(2 / (numel / shape[0])) sin(i + 1); a one-dimensional `...weight` 1 + 0.1 sin(i + 1); the rest 0.1 sin(i + 1).
Hashed filling: u of i, evenly spread over [0, 1), see `_hashed`; a tensor of two dimensions or more gets
(u - 0.5) 2 sqrt(3 / (numel / shape[0])), the rest 0.5 + u.
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
    """Fill all parameters: `filling` is "constant", "sine" or "hashed"."""
    for name, parameter in network.named_parameters():
        if filling == "constant":
            parameter.data.fill_(0.01)
            continue
        if filling == "hashed":
            parameter.data.copy_(_hashed(parameter.shape))
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


def _hashed(shape: torch.Size) -> Tensor:
    # int64 wraps around at 2^64, which 2^32 divides.
    numbers = torch.arange(shape.numel())
    numbers = (numbers * 2654435761 + 12345) % 2**32
    numbers = ((numbers ^ (numbers >> 15)) * 2246822519) % 2**32
    u = (numbers.double() / 2**32).reshape(shape)
    return (u - 0.5) * (2 * math.sqrt(3 * shape[0] / shape.numel())) if len(shape) >= 2 else u + 0.5


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


def assert_float32_golden(output: Tensor, total: float, mean: float, std: float, first: Sequence[float]) -> None:
    """As `assert_golden`, for stored numbers that were computed in float32; their deviation is divided by n - 1.

    Float32 keeps seven digits of each operation; behind the hundreds of operations of a network with scans, whose
    errors add up over the steps, 1e-4 of the deviation holds.
    """
    scale = max(abs(mean), std)
    assert output.mean().item() == pytest.approx(mean, rel=1e-4, abs=1e-4 * scale)
    assert output.sum().item() == pytest.approx(total, rel=1e-4, abs=1e-4 * scale * output.numel())
    assert output.std().item() == pytest.approx(std, rel=1e-4, abs=1e-6 * scale)
    assert output.flatten()[: len(first)].tolist() == pytest.approx(list(first), rel=1e-4, abs=1e-4 * scale)


def num_parameters(network: nn.Module) -> int:
    """Parameters, trainable or not."""
    return sum(parameter.numel() for parameter in network.parameters())
