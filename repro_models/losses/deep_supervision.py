"""Weights and targets for losses at several resolutions, by nnU-Net's rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def deep_supervision_weights(num_outputs: int) -> list[float]:
    """Weights of the losses of `num_outputs` outputs, finest first; their sum is 1.

    Each output weighs half of the next finer one, and the coarsest nothing. A single output is at once the finest and
    the coarsest: it weighs 1 (nnU-Net v2.8.1 gives it 0, and its loss is then not a number).
    """
    if num_outputs == 1:
        return [1.0]
    weights = [0.5**index for index in range(num_outputs - 1)] + [0.0]
    return [weight / sum(weights) for weight in weights]


def downsample_target(target: Tensor, size: Sequence[int]) -> Tensor:
    """Label map of `size` voxels by nearest neighbour of voxel centres.

    Args:
        target: (B, *s), labels of any integer type.
        size: voxels per axis of the result.

    Returns:
        (B, *size) of the type of `target`; a view of it where the sizes are multiples.
    """
    for axis, side in enumerate(size, start=1):
        step, remainder = divmod(target.shape[axis], side)
        if not remainder:
            target = target[(slice(None),) * axis + (slice(step // 2, None, step),)]
        else:
            # Centre (i + 1/2) * old / new, in integers: float32 would misplace voxels of long axes.
            centres = (2 * torch.arange(side, device=target.device) + 1) * target.shape[axis] // (2 * side)
            target = target.index_select(axis, centres)
    return target
