"""Number format and memory layout of a network on its device, in training and prediction."""

from __future__ import annotations

import torch
from torch import nn

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def autocast(device: torch.device) -> torch.autocast:
    """Give the context of forward passes: bfloat16 on CUDA, nothing elsewhere.

    bfloat16 has the range of float32, so gradients need no scaling (nnU-Net's float16 does).
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move `network` to `device`, channels last: the layout of CUDA's bfloat16 and of the CPU's convolution kernels.

    Values and shapes of the parameters stay as they are. A network may mix 2D and 3D convolutions, which
    `Module.to(memory_format=...)` refuses.
    """
    network = network.to(device)
    for parameter in network.parameters():
        if parameter.ndim in _LAYOUTS:
            # Copied, because weights for one channel pass for either layout, and torch then takes the other one.
            placed = torch.empty_like(parameter.data, memory_format=_LAYOUTS[parameter.ndim])
            parameter.data = placed.copy_(parameter.data)
    return network
