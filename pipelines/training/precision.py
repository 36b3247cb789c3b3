"""Number format and memory layout of a training on its device."""

from __future__ import annotations

import torch
from torch import nn


def autocast(device: torch.device) -> torch.autocast:
    """Give the context of forward passes: bfloat16 on CUDA, nothing elsewhere.

    bfloat16 has the range of float32, so gradients need no scaling (nnU-Net's float16 does).
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """Move `network` to `device`, channels last: the layout of CUDA's bfloat16 and of the CPU's convolution kernels.

    Values and parameter shapes stay as they are. Each layout touches only parameters of its own rank, so networks may
    mix 2D and 3D convolutions.
    """
    network = network.to(device)
    for layout in (torch.channels_last, torch.channels_last_3d):
        # torch's stubs of `Module.to` leave this overload's type open.
        network = network.to(memory_format=layout)
    return network
