"""First weights of convolutions by how many values reach an output (He et al., 2015, arXiv 1502.01852)."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def num_incoming(conv: nn.Module) -> int:
    """Values that reach an output of a convolution, or of a transposed one whose stride divides its kernel."""
    assert isinstance(conv, _ConvNd)
    reach = math.prod(conv.kernel_size)
    if isinstance(conv, _ConvTransposeNd):
        reach //= math.prod(conv.stride)
    return conv.in_channels // conv.groups * reach


def init_by_fan_in(network: nn.Module, gain: float = 2.0) -> None:
    """Draw the weights of all convolutions anew, from a normal of variance `gain` over incoming values; biases are 0.

    Args:
        network: changed in place.
        gain: 2 keeps the scale of maps where a ReLU follows (He et al.), 1 where nothing does.
    """
    for module in network.modules():
        if isinstance(module, _ConvNd):
            nn.init.normal_(module.weight, std=math.sqrt(gain / num_incoming(module)))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
