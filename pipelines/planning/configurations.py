"""Which configurations a data set has, and the geometry they share (nnU-Net's rules)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.fingerprint.extract import Fingerprint
from pipelines.planning.spacing import resampled_shape, target_spacing, transpose_order

_LOWRES_PATCH_SHARE = 0.25
_LOWRES_STEP = 1.03
_LOWRES_LEAST_REDUCTION = 2


@dataclass(frozen=True)
class Geometry:
    """Cases after transposing and resampling.

    Attributes:
        transpose_forward: axis of the image (z, y, x) that becomes axis 0, 1, 2.
        spacing_mm: target spacing, transposed.
        median_shape: median over cases of their resampled shapes, transposed; halves where the number of cases is even.
    """

    transpose_forward: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    median_shape: tuple[float, float, float]


def geometry(fingerprint: Fingerprint, spacing_mm: Sequence[float] | None = None) -> Geometry:
    """Geometry of a data set, at a spacing of z, y, x given by the user or at the target spacing."""
    target = spacing_mm or target_spacing(fingerprint.spacings_mm, fingerprint.shapes_after_crop)
    order = transpose_order(target)
    shapes = [
        resampled_shape(shape, spacing, target)
        for shape, spacing in zip(fingerprint.shapes_after_crop, fingerprint.spacings_mm, strict=True)
    ]
    median = np.median(shapes, axis=0).tolist()
    return Geometry(
        order,
        (float(target[order[0]]), float(target[order[1]]), float(target[order[2]])),
        (median[order[0]], median[order[1]], median[order[2]]),
    )


def configurations(fingerprint: Fingerprint) -> list[str]:
    """`2d`, and `3d_fullres` unless the cases are slices."""
    return ["2d"] if geometry(fingerprint).median_shape[0] == 1 else ["2d", "3d_fullres"]


def has_lowres(
    spacing_mm: Sequence[float],
    median_shape: Sequence[float],
    patch_size: Sequence[int],
    plan_patch: Callable[[Sequence[float], Sequence[float]], Sequence[int]],
) -> bool:
    """Whether nnU-Net would add a low-resolution configuration, which turns on batch Dice at full resolution.

    It does where the patch covers less than a quarter of the median case, and coarsening the spacing until it covers
    that much leaves half the voxels or fewer.

    Args:
        spacing_mm: of full resolution.
        median_shape: at that spacing.
        patch_size: at that spacing.
        plan_patch: patch for a spacing and a median shape.
    """
    fullres, lowres = np.asarray(spacing_mm), np.array(spacing_mm, dtype=np.float64)
    fullres_voxels = lowres_voxels = float(np.prod(median_shape))
    patch_voxels = float(np.prod(patch_size))
    while patch_voxels / lowres_voxels < _LOWRES_PATCH_SHARE:
        is_finer = lowres.max() / lowres > 2
        lowres[is_finer if is_finer.any() else ...] *= _LOWRES_STEP
        lowres_shape = fullres / lowres * np.asarray(median_shape)
        lowres_voxels = float(np.prod(lowres_shape))
        patch_voxels = float(np.prod(plan_patch(lowres.tolist(), [round(side) for side in lowres_shape.tolist()])))
    return bool((lowres != fullres).any() and fullres_voxels / lowres_voxels >= _LOWRES_LEAST_REDUCTION)
