"""Dice and intersection over union from confusion counts.

Empty classes: a class that is in neither map has no overlap to speak of and scores NaN, which means leave out; a
class that is in one of them only scores 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def confusion_counts(prediction: NDArray, reference: NDArray, num_classes: int) -> NDArray[np.int64]:
    """Count hits and errors of every class in one pass.

    Args:
        prediction: label map of any shape, values 0 .. num_classes - 1.
        reference: label map of the same shape and range.
        num_classes: classes, background included.

    Returns:
        (num_classes, 3): true positive, false positive and false negative voxels of each class.
    """
    assert prediction.shape == reference.shape, (prediction.shape, reference.shape)
    pairs = reference.astype(np.int64).ravel() * num_classes + prediction.ravel()
    table = np.bincount(pairs, minlength=num_classes**2)
    assert len(table) == num_classes**2, f"a label is not below {num_classes}"
    table = table.reshape(num_classes, num_classes)
    hits = np.diagonal(table)
    return np.stack([hits, table.sum(axis=0) - hits, table.sum(axis=1) - hits], axis=1)


def dice(true_positive: ArrayLike, false_positive: ArrayLike, false_negative: ArrayLike) -> NDArray[np.float64]:
    """Dice coefficient 2 TP / (2 TP + FP + FN) in 0 .. 1, element by element; NaN where all counts are 0."""
    double_hits = 2.0 * np.asarray(true_positive, dtype=np.float64)
    return _ratio(double_hits, double_hits + np.asarray(false_positive) + np.asarray(false_negative))


def iou(true_positive: ArrayLike, false_positive: ArrayLike, false_negative: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union TP / (TP + FP + FN) in 0 .. 1, element by element; NaN where all counts are 0."""
    hits = np.asarray(true_positive, dtype=np.float64)
    return _ratio(hits, hits + np.asarray(false_positive) + np.asarray(false_negative))


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)
