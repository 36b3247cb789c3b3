"""Errors of a map of regions parted by thin borders, such as cells parted by membranes (ISBI 2012).

Pixel error:
    Share of the voxels whose class is wrong: of two label maps the mean squared difference, which is one of the
    challenge's two readings (the other is 1 minus the F-score of pixels, the best of all thresholds of a probability
    map). Nothing is minimised over thresholds here.
Rand error:
    1 minus the F-score of the foreground-restricted Rand index, with the borders of the prediction thinned
    (Arganda-Carreras et al., 2015, doi 10.3389/fnana.2015.00142: V Rand of alpha 0.5). Regions are the connected pieces
    of the class (through faces). Only voxels that the reference gives to a region count. Of all pairs of two different
    such voxels, those that are in one region of both maps, times two, are divided by those in one region of the
    reference plus those in one region of the prediction.
    Thinning: voxels that the prediction gives to no region join the nearest one, so the width of its borders does not
    count. The challenge's own script leaves a skeleton of the borders and sums squares instead of pairs; for regions of
    many voxels that makes hardly a difference.
    The challenge's first leader board had the same error without thinning.
Empty maps:
    A reference without a region: NaN, which means leave out. A prediction without one is one region: everything merged.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.metrics.objects import pieces


def pixel_error(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Share of the voxels in which two masks of one shape differ, 0 .. 1."""
    assert prediction.shape == reference.shape, (prediction.shape, reference.shape)
    return float(np.count_nonzero(prediction != reference) / reference.size) if reference.size else math.nan


def rand_error(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Foreground-restricted Rand error after thinning of the predicted borders, 0 .. 1.

    Args:
        prediction: mask of what is inside a region.
        reference: mask of the same shape.
    """
    assert prediction.shape == reference.shape, (prediction.shape, reference.shape)
    if not reference.any():
        return math.nan
    regions = thinned(pieces(prediction))[reference]
    of_reference = pieces(reference)[reference]
    pairs = of_reference.astype(np.int64) * (int(regions.max()) + 1) + regions
    both, of_one, of_other = (
        _num_pairs(np.unique(numbers, return_counts=True)[1]) for numbers in (pairs, of_reference, regions)
    )
    # Without a pair, as of regions of one voxel, nothing is wrong.
    return 1 - 2 * both / (of_one + of_other) if of_one + of_other else 0.0


def thinned(regions: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give every voxel of no region (0) the number of the nearest one; unchanged where there is no region."""
    if not regions.any():
        return regions
    nearest = ndimage.distance_transform_edt(regions == 0, return_distances=False, return_indices=True)
    return regions[tuple(nearest)]


def _num_pairs(sizes: NDArray[np.int64]) -> int:
    """Ordered pairs of different voxels within groups of these sizes."""
    return int((sizes * (sizes - 1)).sum())
