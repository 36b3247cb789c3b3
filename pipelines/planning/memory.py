"""Memory of a training step, estimated from the outputs of convolutions (nnU-Net's estimate, for any network).

The estimate is the number of elements of all convolution outputs for one patch. nnU-Net measured how many of them fit
a GPU of 8 GB: 560 million at a batch of 2 for its 3D U-Net, 85 million at a batch of 12 for its 2D U-Net.

Differs:
    - The ignore label is no output channel. nnU-Net counts it in the last convolution.
    - Only convolutions count. nnU-Net counts one in the shortcut of a residual block also where that only averages
      (stages that have reached the limit of channels): 0.004 % of the estimate for a patch of 128 voxels a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipelines.planning.shapes import shapes_only

_MEASURED_AT_GIB = 8


@dataclass(frozen=True)
class Reference:
    """What fits.

    Attributes:
        elements: convolution elements of one patch when `batch_size` patches just fit.
        batch_size: patches at which that was measured.
    """

    elements: float
    batch_size: int

    def is_too_much(self, conv_elements: int) -> bool:
        """Whether a batch of 2, the smallest, is beyond the budget."""
        return conv_elements / self.batch_size * 2 > self.elements


def reference(spatial_dims: int, memory_gib: float) -> Reference:
    """What fits `memory_gib`."""
    elements, batch_size = {2: (85e6, 12), 3: (560e6, 2)}[spatial_dims]
    return Reference(elements * (memory_gib / _MEASURED_AT_GIB), batch_size)


def predicted_gib(conv_elements: int, batch_size: int, spatial_dims: int) -> float:
    """Memory of a training step on `batch_size` patches."""
    full = reference(spatial_dims, _MEASURED_AT_GIB)
    return conv_elements / full.elements * batch_size / full.batch_size * _MEASURED_AT_GIB


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
