"""Number format and memory layout of a network on its device, in training and prediction."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from repro_models.blocks.pointwise_conv import StridedPointwiseConv2d

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
    for module in network.modules():
        is_first = device.type == "cpu" and _has_wrong_gradient_channels_last(module)
        if is_first:
            module.register_forward_pre_hook(_input_channels_first)
        for parameter in module.parameters(recurse=False):
            if parameter.ndim in _LAYOUTS:
                # Copied, because weights for one channel pass for either layout, and torch then takes the other one.
                layout = torch.contiguous_format if is_first else _LAYOUTS[parameter.ndim]
                placed = torch.empty_like(parameter.data, memory_format=layout)
                parameter.data = placed.copy_(parameter.data)
    return network


def _has_wrong_gradient_channels_last(module: nn.Module) -> bool:
    """Whether torch 2.15 (oneDNN 3.13) may compute a wrong gradient of its weights in channels last.

    Transposed depthwise 3D convolutions (64 channels, side 7, stride 2, 4x4x4 voxels: memory that was never written is
    added up), and strided ones of side 1, which write beyond their memory (see `StridedPointwiseConv2d`).
    """
    if isinstance(module, nn.ConvTranspose3d):
        return module.groups > 1
    # Ours take the pixels they need first.
    if not isinstance(module, (nn.Conv2d, nn.Conv3d)) or isinstance(module, StridedPointwiseConv2d):
        return False
    return max(module.kernel_size) == 1 < max(module.stride)


def _input_channels_first(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].contiguous(), *inputs[1:])
