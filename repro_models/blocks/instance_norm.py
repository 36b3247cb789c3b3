"""Instance normalisation that leaves the layout of its input as it is (Ulyanov et al., 2016, arXiv 1607.08022).

The numbers are torch's. On the CPU torch brings every input to the layout channels first and the convolution after it
back to channels last, forward and backward; that is a tenth of a training step. Here an input in channels last is
normalised sample by sample by the kernel of batch normalisation, which knows the layout, and one in channels first by
that of group normalisation with a channel a group.

Differs:
    - In channels last torch's kernel adds up in float32: scale and shift of a channel are off by about 1e-5 where a
      sample has 1e5 voxels.
Shapes:
    B batch, C channels, *s voxels, two at least.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_PRECISIONS = (torch.float32, torch.float64)


class InstanceNorm2d(nn.InstanceNorm2d):
    """(B, C, X, Y) -> the same; arguments and parameters of `torch.nn.InstanceNorm2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each sample."""
        return _normalised(self, x) if _is_ours(self, x) else super().forward(x)


class InstanceNorm3d(nn.InstanceNorm3d):
    """(B, C, X, Y, Z) -> the same; arguments and parameters of `torch.nn.InstanceNorm3d`."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each sample."""
        return _normalised(self, x) if _is_ours(self, x) else super().forward(x)


INSTANCE_NORM: dict[int, type[nn.Module]] = {2: InstanceNorm2d, 3: InstanceNorm3d}
"""By the number of spatial dimensions."""


def _is_ours(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor) -> bool:
    is_on_cpu = x.device.type == "cpu" and x.dtype in _PRECISIONS
    # Half precision, running statistics and what torch refuses are torch's.
    return is_on_cpu and x.ndim in _CHANNELS_LAST and x[0, 0].numel() > 1 and not norm.track_running_stats


def _normalised(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor) -> Tensor:
    if not x.is_contiguous() and x.is_contiguous(memory_format=_CHANNELS_LAST[x.ndim]):
        normalised: Tensor = _ChannelsLast.apply(x, norm.weight, norm.bias, norm.eps)
        return normalised
    return functional.group_norm(x, x.shape[1], norm.weight, norm.bias, norm.eps)


class _ChannelsLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        normalised = torch.empty_like(x)
        means, inverse_stds = x.new_empty(2, *x.shape[:2])
        for sample, out, mean, inverse_std in zip(x.split(1), normalised.split(1), means, inverse_stds, strict=True):
            torch.native_batch_norm(sample, weight, bias, None, None, True, 0.0, eps, out=(out, mean, inverse_std))
        ctx.save_for_backward(x, weight, means, inverse_stds)
        ctx.eps = eps
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, inverse_stds = ctx.saved_tensors
        is_affine = weight is not None
        of_input = torch.empty_like(x)
        of_weights, of_biases = x.new_zeros(2, x.shape[1])
        for sample, gradient, result, mean, inverse_std in zip(
            x.split(1), gradients[0].split(1), of_input.split(1), means, inverse_stds, strict=True
        ):
            of_sample, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                gradient, sample, weight, None, None, mean, inverse_std, True, ctx.eps, [True, is_affine, is_affine]
            )
            # Each at once, while it is in the processor's cache.
            result.copy_(of_sample)
            if is_affine:
                of_weights += of_weight
                of_biases += of_bias
        return (of_input, of_weights, of_biases, None) if is_affine else (of_input, None, None, None)
