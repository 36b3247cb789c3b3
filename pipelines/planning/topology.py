"""Strides and kernels of a U-Net from spacing and patch (nnU-Net's rule).

An axis is halved while it keeps 4 voxels or more; axes of coarser voxels wait until the finer ones have caught up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_EDGE = 4


@dataclass(frozen=True)
class Topology:
    """What a patch asks of a U-Net.

    Attributes:
        strides: per stage and axis; the first stage has stride 1.
        kernel_sizes: per stage and axis.
        divisor: what a side must be a multiple of, per axis.
        patch_size: the patch, each side padded up to a multiple of the divisor.
    """

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    divisor: tuple[int, ...]
    patch_size: tuple[int, ...]


def topology(spacing_mm: Sequence[float], patch_size: Sequence[float]) -> Topology:
    """Topology for a patch of `patch_size` voxels (it need not be whole) at `spacing_mm`."""
    axes = range(len(spacing_mm))
    spacing, size = list(spacing_mm), list(patch_size)
    kernel, divisor = [1] * len(spacing), [1] * len(spacing)
    strides, kernel_sizes = [(1,) * len(spacing)], []
    while True:
        halved = [axis for axis in axes if size[axis] >= 2 * SMALLEST_EDGE]
        finest = min((spacing[axis] for axis in halved), default=0.0)
        halved = [axis for axis in halved if spacing[axis] / finest < 2]
        if not halved or (len(halved) == 1 and size[halved[0]] < 3 * SMALLEST_EDGE):
            break
        kernel = [3 if kernel[axis] == 3 or spacing[axis] / min(spacing) < 2 else 1 for axis in axes]
        kernel_sizes.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            spacing[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
            divisor[axis] *= 2
    kernel_sizes.append((3,) * len(spacing))
    padded = tuple(math.ceil(side / step) * step for side, step in zip(patch_size, divisor, strict=True))
    return Topology(tuple(strides), tuple(kernel_sizes), tuple(divisor), padded)
