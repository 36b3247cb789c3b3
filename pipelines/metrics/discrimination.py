"""How well voxels of a class are told from all others: sensitivity, specificity, area under the ROC curve.

Of a case in which a measure has nothing to count (no voxel of the class for sensitivity, none of the others for
specificity, either for the area) it is NaN, which means leave out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# A probability in 16 bits: this is 1.
FULL_SCALE = np.iinfo(np.uint16).max


def sensitivity(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """TP / (TP + FN) of two masks of one shape, 0 .. 1."""
    num_true = np.count_nonzero(reference)
    return float(np.count_nonzero(prediction & reference) / num_true) if num_true else math.nan


def specificity(prediction: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """TN / (TN + FP) of two masks of one shape, 0 .. 1."""
    return sensitivity(~prediction, ~reference)


def area_under_roc(probability: NDArray[np.uint16], reference: NDArray[np.bool_]) -> float:
    """Chance that a voxel of the class has a larger value than one of the others, ties counted half; 0 .. 1.

    Args:
        probability: of the class, `FULL_SCALE` for 1; only the order of the values matters.
        reference: mask of the same shape.
    """
    assert probability.shape == reference.shape, (probability.shape, reference.shape)
    num_values = FULL_SCALE + 1
    positives = np.bincount(probability[reference], minlength=num_values)
    negatives = np.bincount(probability[~reference], minlength=num_values)
    num_pairs = int(positives.sum()) * int(negatives.sum())
    if not num_pairs:
        return math.nan
    below = np.cumsum(negatives) - negatives
    # In halves, as whole numbers: exact for any image that fits into memory.
    return int((positives * (2 * below + negatives)).sum()) / (2 * num_pairs)


def in_16_bits(probability: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Probabilities 0 .. 1 as whole numbers up to `FULL_SCALE`."""
    return np.rint(np.clip(probability, 0, 1) * FULL_SCALE).astype(np.uint16)
