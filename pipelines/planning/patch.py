"""Sizes of patches: where planning starts, what is legal, how it shrinks, and what training crops.

The rules are nnU-Net's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_SMALLEST_SCALE = 0.85  # stronger zooms of the augmentation may show padding
_DUMMY_2D_RATIO = 3
_ELONGATED_2D_RATIO = 1.5


@dataclass(frozen=True)
class Candidate:
    """A patch together with the network that takes it.

    Attributes:
        config: the architecture's `Config`.
        patch_size: voxels per axis.
        divisor: by how much a side may shrink.
        smallest_side: below this a side may not shrink.
    """

    config: Any
    patch_size: tuple[int, ...]
    divisor: tuple[int, ...]
    smallest_side: tuple[int, ...]


Configure = Callable[[Sequence[float]], Candidate]


def starting_patch(spacing_mm: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """Patch of 256³ (2D: 2048²) voxels whose sides are equal in mm, clipped to the median shape."""
    num_voxels = 256.0**3 if len(spacing_mm) == 3 else 2048.0**2
    aspect = 1 / np.asarray(spacing_mm, dtype=np.float64)
    sides = aspect * (num_voxels / np.prod(aspect)) ** (1 / len(spacing_mm))
    return tuple(min(round(float(side)), median) for side, median in zip(sides, median_shape, strict=True))


def legal_patch(patch_size: Sequence[float], divisor: Sequence[int], smallest_side: Sequence[int]) -> tuple[int, ...]:
    """`patch_size` with each side padded up to a multiple of its divisor that is not below the smallest side."""
    return tuple(
        math.ceil(max(side, least) / step) * step
        for side, step, least in zip(patch_size, divisor, smallest_side, strict=True)
    )


def shrunk(candidate: Candidate, median_shape: Sequence[float], configure: Configure) -> Candidate | None:
    """Take one step off the axis that has most of the median shape, or None where no axis can give.

    Args:
        candidate: the patch now.
        median_shape: per axis.
        configure: the network for a patch.
    """
    for axis in by_share(candidate.patch_size, median_shape):
        if candidate.patch_size[axis] - candidate.divisor[axis] < candidate.smallest_side[axis]:
            continue
        smaller = shrunk_along(axis, candidate, configure)
        # Not the side alone: another topology may pad another side up, and the steps would go in circles.
        if math.prod(smaller.patch_size) < math.prod(candidate.patch_size):
            return smaller
    return None


def shrinking(start: Sequence[float], median_shape: Sequence[float], configure: Configure) -> Iterator[Candidate]:
    """All patches from `start` on in the order in which nnU-Net shrinks them; arguments as in `shrunk`."""
    candidate: Candidate | None = configure(start)
    while candidate is not None:
        yield candidate
        candidate = shrunk(candidate, median_shape, configure)


def shrunk_along(axis: int, candidate: Candidate, configure: Configure) -> Candidate:
    """Take one step off an axis. The step is the divisor of the already reduced patch: 256 becomes 224 and not 192."""

    def reduced(step: int) -> list[int]:
        return [side - step * (i == axis) for i, side in enumerate(candidate.patch_size)]

    return configure(reduced(configure(reduced(candidate.divisor[axis])).divisor[axis]))


def by_share(patch_size: Sequence[int], median_shape: Sequence[float]) -> list[int]:
    """Axes in the order in which they give: first the one that has most of the median shape, the last of equal ones."""
    shares = [side / median for side, median in zip(patch_size, median_shape, strict=True)]
    order: list[int] = np.argsort(shares, kind="stable")[::-1].tolist()
    return order


def is_dummy_2d(patch_size: Sequence[int]) -> bool:
    """Whether a 3D patch is so flat along axis 0 that it is rotated and scaled slice by slice."""
    return len(patch_size) == 3 and max(patch_size) / patch_size[0] > _DUMMY_2D_RATIO


def rotation_degrees(patch_size: Sequence[int]) -> float:
    """Largest rotation in training: 30 in 3D, 180 in the plane, 15 for an elongated 2D patch."""
    if len(patch_size) == 2:
        return 15.0 if max(patch_size) / min(patch_size) > _ELONGATED_2D_RATIO else 180.0
    return 180.0 if is_dummy_2d(patch_size) else 30.0


def initial_patch_size(patch_size: Sequence[int], largest_rotation_degrees: float | None = None) -> tuple[int, ...]:
    """Voxels to crop so that a rotated patch, zoomed out to 0.85, has data in its corners.

    Each axis takes the longest extent of the corner of the patch, turned about one axis at a time.

    Args:
        patch_size: of two or three axes; axis 0 of a flat patch (`is_dummy_2d`) is left alone.
        largest_rotation_degrees: `rotation_degrees(patch_size)` when None.
    """
    degrees = rotation_degrees(patch_size) if largest_rotation_degrees is None else largest_rotation_degrees
    if is_dummy_2d(patch_size):
        return (patch_size[0], *initial_patch_size(patch_size[1:], degrees))
    angle = math.radians(min(degrees, 90.0))
    extent = [float(side) for side in patch_size]
    for first in range(len(patch_size)):
        for second in range(first + 1, len(patch_size)):
            a, b = patch_size[first], patch_size[second]
            along_first = abs(a * math.cos(angle) + b * math.sin(angle))
            along_second = abs(b * math.cos(angle) - a * math.sin(angle))
            if (first, second) == (0, 2):
                along_first = abs(a * math.cos(angle) - b * math.sin(angle))
                along_second = abs(b * math.cos(angle) + a * math.sin(angle))
            extent[first] = max(extent[first], along_first)
            extent[second] = max(extent[second], along_second)
    return tuple(int(side / _SMALLEST_SCALE) for side in extent)
