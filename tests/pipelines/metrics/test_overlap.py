from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics.overlap import confusion_counts, dice, iou


def test_counts_by_hand() -> None:
    reference = np.array([[0, 0, 1], [1, 2, 2]])
    prediction = np.array([[0, 1, 1], [2, 2, 0]], dtype=np.uint8)
    counts = confusion_counts(prediction, reference, 4)
    assert counts.tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]]


def test_scores_by_hand() -> None:
    assert dice(3, 1, 2) == pytest.approx(6 / 9)
    assert iou(3, 1, 2) == pytest.approx(3 / 6)


@pytest.mark.parametrize("score", [dice, iou])
def test_absent_from_both_is_nan_and_from_one_is_zero(score) -> None:
    np.testing.assert_array_equal(score([0, 0, 0, 4], [0, 5, 0, 0], [0, 0, 5, 0]), [np.nan, 0, 0, 1])


def test_many_classes_agree_with_masks() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.integers(0, 5, (2, 6, 7, 8))
    for value, (hits, false_positive, false_negative) in enumerate(confusion_counts(prediction, reference, 5)):
        predicted, referenced = prediction == value, reference == value
        assert hits == (predicted & referenced).sum()
        assert false_positive == (predicted & ~referenced).sum()
        assert false_negative == (~predicted & referenced).sum()


def test_label_beyond_the_classes_is_a_programming_error() -> None:
    with pytest.raises(AssertionError):
        confusion_counts(np.array([0, 3]), np.array([2, 2]), 3)
