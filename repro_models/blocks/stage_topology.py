"""Strides, kernel sizes and channels of the stages of a U-Net whose depth a planner chooses.

Source: nnU-Net (Isensee et al., 2021, Nature Methods 18): stage by stage, anisotropic where the voxels are.
A stride or kernel size of a stage is an int for all axes or has one int per axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Stages = Sequence[int | Sequence[int]]
_MAX_FEATURES = {2: 512, 3: 320}


def frozen(stages: Stages) -> tuple[int | tuple[int, ...], ...]:
    """Strides or kernel sizes as a frozen `Config` keeps them."""
    return tuple(stage if isinstance(stage, int) else tuple(stage) for stage in stages)


def doubling_features(num_stages: int, spatial_dims: int, base: int = 32, limit: int | None = None) -> list[int]:
    """Channels of every stage: `base`, and twice as many with each up to `limit`; None is 320 in 3D and 512 in 2D."""
    return [min(base * 2**stage, limit or _MAX_FEATURES[spatial_dims]) for stage in range(num_stages)]


def divisor(strides: Stages) -> int | tuple[int, ...]:
    """What a side must be divisible by, for all axes or for each."""
    per_axis = [stride for stride in strides if not isinstance(stride, int)]
    if not per_axis:
        return math.prod(stride for stride in strides if isinstance(stride, int))
    return tuple(
        math.prod(stride if isinstance(stride, int) else stride[axis] for stride in strides)
        for axis in range(len(per_axis[0]))
    )


def smallest_side(strides: Stages) -> int | tuple[int, ...]:
    """Two voxels at the lowest stage on every pooled axis: instance normalisation needs more than one voxel."""
    steps = divisor(strides)
    if isinstance(steps, int):
        return 2 * steps
    return tuple(2 * step if step > 1 else 1 for step in steps)


def per_axis(name: str, stages: Stages, spatial_dims: int) -> list[tuple[int, ...]]:
    """Strides or kernel sizes of all stages, one int per axis.

    Raises:
        ValueError: a stage has another number of them; the message calls them `name`.
    """
    spread = [(stage,) * spatial_dims if isinstance(stage, int) else tuple(stage) for stage in stages]
    for stage in spread:
        if len(stage) != spatial_dims:
            raise ValueError(
                f"{name}={stages}: {stage} has {len(stage)} entries, but the network is {spatial_dims}D; "
                f"give one int, or {spatial_dims} of them, per stage"
            )
    return spread


def check_topology(strides: list[tuple[int, ...]], kernel_sizes: list[tuple[int, ...]]) -> None:
    """Raise ValueError unless they make a U-Net whose output has the size of its input."""
    if len(strides) < 2 or len(strides) != len(kernel_sizes):
        raise ValueError(
            f"{len(strides)} strides and {len(kernel_sizes)} kernel sizes: give one of each per stage, "
            "and at least two stages (an image side under 8 voxels is too small for nnU-Net; pad it)"
        )
    if set(strides[0]) != {1}:
        raise ValueError(f"stride {strides[0]} of the first stage: must be 1, the output has the size of the input")
    for kernel_size in kernel_sizes:
        if any(side % 2 == 0 for side in kernel_size):
            raise ValueError(f"kernel size {kernel_size}: sides must be odd, so that padding keeps the size")
