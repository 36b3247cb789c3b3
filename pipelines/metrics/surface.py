"""Distances between the surfaces of two masks: HD95, ASSD and normalised surface Dice.

Surface:
    The voxels of a mask that leave it under erosion by the face neighbours (the cross), with nothing but background
    beyond the image. MONAI's voxel metrics use the same surface, so the three measures equal its
    `compute_hausdorff_distance` (percentile 95), `compute_average_surface_distance` (symmetric) and
    `compute_surface_dice` (without subvoxels).
Measures, from the distance in mm of each surface voxel to the nearest voxel of the other surface:
    hd95_mm   the larger of the two directions' 95th percentiles (linear between neighbours).
    assd_mm   the mean over the surface voxels of both masks together.
    nsd       the share of the surface voxels of both masks that are no farther than the tolerance, itself included.
Empty masks:
    Both empty: NaN, which means leave out. One empty: hd95_mm and assd_mm are the diagonal of the image in mm (the
    finite worst case, so that a missed structure costs and does not vanish from the means) and nsd is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt


@dataclass(frozen=True)
class SurfaceScores:
    """Surface agreement of one class; NaN where neither mask has a voxel.

    Attributes:
        hd95_mm: 95th percentile of the Hausdorff distance.
        assd_mm: average symmetric surface distance.
        nsd: normalised surface Dice at the tolerance, 0 .. 1.
    """

    hd95_mm: float
    assd_mm: float
    nsd: float


def surface_scores(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float], tolerance_mm: float
) -> SurfaceScores:
    """Score one class by its surfaces, under the rules of the module.

    Args:
        prediction: mask, 2D or 3D.
        reference: mask of the same shape.
        spacing_mm: voxel size, one value an axis.
        tolerance_mm: distance up to which a surface voxel counts as right.
    """
    is_predicted, is_referenced = bool(prediction.any()), bool(reference.any())
    if not is_predicted and not is_referenced:
        return SurfaceScores(math.nan, math.nan, math.nan)
    if not is_predicted or not is_referenced:
        diagonal_mm = math.hypot(*(side * step for side, step in zip(reference.shape, spacing_mm, strict=True)))
        return SurfaceScores(diagonal_mm, diagonal_mm, 0.0)
    to_reference, to_prediction = surface_distances(prediction, reference, spacing_mm)
    both = np.concatenate([to_reference, to_prediction])
    return SurfaceScores(
        hd95_mm=float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        assd_mm=float(both.mean()),
        # In single precision 3 * 0.3 mm is within 0.9 mm; in double it is not.
        nsd=float((both.astype(np.float32) <= np.float32(tolerance_mm)).mean()),
    )


def surface_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances in mm from each surface voxel of one mask to the surface of the other.

    Both masks lie in the bounding box of their union, so all work stays in that box and nothing outside it can
    change a distance.

    Args:
        prediction: mask with at least one voxel, 2D or 3D.
        reference: mask of the same shape with at least one voxel.
        spacing_mm: voxel size, one value an axis.

    Returns:
        Prediction to reference, and reference to prediction; one value a surface voxel, in array order.
    """
    assert prediction.shape == reference.shape, (prediction.shape, reference.shape)
    box = _bounding_box(prediction | reference)
    prediction_surface, reference_surface = _surface(prediction[box]), _surface(reference[box])
    to_reference = distance_transform_edt(~reference_surface, sampling=spacing_mm)[prediction_surface]
    to_prediction = distance_transform_edt(~prediction_surface, sampling=spacing_mm)[reference_surface]
    return to_reference, to_prediction


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~binary_erosion(mask)


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    slices = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        slices.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(slices)
