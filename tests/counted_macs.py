"""Multiply-accumulate operations of a network by torch's counter: convolutions, matrix products and attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def num_macs(network: nn.Module, in_channels: int, size: Sequence[int], is_training: bool = False) -> int:
    """Of one image, counted on the meta device, where `network` must be."""
    network.train(is_training)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, in_channels, *size))
    return counter.get_total_flops() // 2
