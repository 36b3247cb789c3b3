"""Target spacing, order of axes and resampled shapes (nnU-Net's rules)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ANISOTROPY = 3


def target_spacing(
    spacings_mm: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]
) -> tuple[float, float, float]:
    """Spacing to which all cases are resampled: the median of each axis, finer along a thick axis.

    An axis is thick when its median spacing is more than 3 times the next and it has fewer than a third of the others'
    voxels. Its target is then the 10th percentile of its spacings, though never finer than the other axes.

    Args:
        spacings_mm: of each case, z y x.
        shapes: of each case after cropping, z y x.
    """
    spacings = np.asarray(spacings_mm, dtype=np.float64)
    # As percentiles: between two cases they round otherwise than np.median, and nnU-Net takes them.
    target = np.percentile(spacings, 50, axis=0)
    median_shape = np.percentile(np.asarray(shapes), 50, axis=0)
    thick = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != thick]
    has_thick_axis = target[thick] > _ANISOTROPY * target[others].max()
    if has_thick_axis and median_shape[thick] * _ANISOTROPY < median_shape[others].min():
        target[thick] = np.percentile(spacings[:, thick], 10)
        if target[thick] < target[others].max():
            target[thick] = target[others].max() + 1e-5
    return float(target[0]), float(target[1]), float(target[2])


def transpose_order(spacing_mm: Sequence[float], first: int | None = None) -> tuple[int, int, int]:
    """Axes in the order that puts one first, else that of the largest spacing, and keeps the others as they are."""
    if first is None:
        first = int(np.argmax(spacing_mm))
    second, third = (axis for axis in range(3) if axis != first)
    return first, second, third


def resampled_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], new_spacing_mm: Sequence[float | None]
) -> tuple[int, ...]:
    """Voxels of a case at a new spacing, halves rounded to even; an axis with spacing None keeps its voxels."""
    return tuple(
        side if new is None else round(old / new * side)
        for side, old, new in zip(shape, spacing_mm, new_spacing_mm, strict=True)
    )
