"""Outputs of a network's convolutions: nnU-Net's measure of memory, for any network.

The house planner measures the whole step instead (`pipelines.planning.step_memory`) and takes this, which is quicker,
to see which patches to measure.

Differs:
    - The ignore label is no output channel. nnU-Net counts it in the last convolution.
    - Only convolutions count. nnU-Net counts one in the shortcut of a residual block also where that only averages
      (stages that have reached the limit of channels): 0.004 % of the estimate for a patch of 128 voxels a side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipelines.planning.shapes import shapes_only


def conv_elements(network: nn.Module, in_channels: int, patch_size: Sequence[int]) -> int:
    """Elements of the outputs of all convolutions, transposed ones included, for one patch.

    The network runs in evaluation mode, in which auxiliary heads of deep supervision are silent.

    Args:
        network: made under `shapes_only`, or on the meta device; its mode is left as it was.
        in_channels: image channels.
        patch_size: voxels per axis.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output.numel()

    convolutions = [module for module in network.modules() if isinstance(module, nn.modules.conv._ConvNd)]
    hooks = [module.register_forward_hook(count) for module in convolutions]
    is_training = network.training
    try:
        with shapes_only():
            network.eval()(torch.empty(1, in_channels, *patch_size))
    finally:
        network.train(is_training)
        for hook in hooks:
            hook.remove()
    return total
