"""Agreement of two maps of numbered objects: average precision and aggregated Jaccard index.

Objects:
    Voxels with one number above 0. A mask has no numbers: its objects are its connected pieces (`pieces`), voxels that
    share a face being connected, so objects that touch are one. That is what a network of semantic segmentation gives.
Average precision (2018 Data Science Bowl):
    At a threshold t a predicted object is a hit where its intersection over union with a reference object is above t;
    from 0.5 on there is at most one such pair for either. The precision at t is hits / (hits + predicted objects
    without a partner + reference objects without one), and the average is over t = 0.5, 0.55, ..., 0.95.
Aggregated Jaccard index (Kumar et al., 2017, doi 10.1109/TMI.2017.2677499, algorithm 1):
    Each reference object is paired with the predicted object of the largest intersection over union. The index is the
    sum of the pairs' intersections over the sum of their unions and of the predicted objects in no pair. A predicted
    object may be in several pairs, as in the paper; a reference object that nothing overlaps adds its own size below.
Empty maps:
    Both empty: NaN, which means leave out. One empty: 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# As counted in the contest: ten steps, exact in hundredths.
THRESHOLDS = tuple(hundredths / 100 for hundredths in range(50, 100, 5))


@dataclass(frozen=True)
class Overlaps:
    """How the objects of two maps overlap, a row for every pair that shares a voxel.

    Attributes:
        reference: (n,) index of the reference object, from 0.
        predicted: (n,) index of the predicted object, from 0.
        intersections: (n,) voxels of the pair.
        reference_sizes: voxels of each reference object.
        predicted_sizes: voxels of each predicted object.
    """

    reference: NDArray[np.int64]
    predicted: NDArray[np.int64]
    intersections: NDArray[np.int64]
    reference_sizes: NDArray[np.int64]
    predicted_sizes: NDArray[np.int64]

    @property
    def unions(self) -> NDArray[np.int64]:
        """(n,) voxels of either of the pair."""
        return self.reference_sizes[self.reference] + self.predicted_sizes[self.predicted] - self.intersections


def pieces(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the connected pieces of a mask from 1; voxels are connected through their faces."""
    from scipy import ndimage

    numbered: NDArray[np.int32] = ndimage.label(mask)[0]
    return numbered


def overlaps(prediction: NDArray, reference: NDArray) -> Overlaps:
    """Count shared voxels.

    Args:
        prediction: numbers of objects, 0 for none, of any shape and in any order.
        reference: likewise, of the same shape.
    """
    assert prediction.shape == reference.shape, (prediction.shape, reference.shape)
    of_prediction, predicted_sizes = _renumbered(prediction)
    of_reference, reference_sizes = _renumbered(reference)
    is_shared = (of_prediction > 0) & (of_reference > 0)
    pairs = (of_reference[is_shared] - 1) * len(predicted_sizes) + (of_prediction[is_shared] - 1)
    found, intersections = np.unique(pairs, return_counts=True)
    width = max(len(predicted_sizes), 1)
    return Overlaps(found // width, found % width, intersections, reference_sizes, predicted_sizes)


def precision_at(found: Overlaps, threshold: float) -> float:
    """Precision at one threshold, 0.5 or above; NaN where neither map has an object."""
    assert threshold >= 0.5, threshold
    num_objects = len(found.reference_sizes) + len(found.predicted_sizes)
    if not num_objects:
        return math.nan
    # In whole numbers times a hundred, so that an IoU of exactly the threshold is none above it.
    num_hits = int(np.count_nonzero(100 * found.intersections > round(100 * threshold) * found.unions))
    return num_hits / (num_objects - num_hits)


def average_precision(found: Overlaps, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Mean of the precisions; NaN where neither map has an object."""
    return math.fsum(precision_at(found, threshold) for threshold in thresholds) / len(thresholds)


def aggregated_jaccard(found: Overlaps) -> float:
    """Aggregated Jaccard index; NaN where neither map has an object."""
    if not len(found.reference_sizes) + len(found.predicted_sizes):
        return math.nan
    unions = found.unions
    # Best pair first; the order of the predicted objects decides between equals.
    order = np.lexsort((found.predicted, -found.intersections / np.maximum(unions, 1), found.reference))
    partnered, first = np.unique(found.reference[order], return_index=True)
    best = order[first]
    alone = np.ones(len(found.reference_sizes), bool)
    alone[partnered] = False
    unused = np.ones(len(found.predicted_sizes), bool)
    unused[found.predicted[best]] = False
    below = unions[best].sum() + found.reference_sizes[alone].sum() + found.predicted_sizes[unused].sum()
    return float(found.intersections[best].sum() / below)


def _renumbered(numbers: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Objects as 1, 2, ... without a gap, 0 for none, flat; and the size of each."""
    values, indices = np.unique(numbers, return_inverse=True)
    assert values[0] >= 0, f"object number {values[0]}"
    indices = indices.ravel().astype(np.int64) + (values[0] != 0)
    return indices, np.bincount(indices, minlength=1)[1:]
