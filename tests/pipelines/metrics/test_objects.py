from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.metrics.objects import THRESHOLDS, aggregated_jaccard, average_precision, overlaps, pieces, precision_at


def row(text: str) -> np.ndarray:
    """One object a letter, a dot is none."""
    return np.array([0 if letter == "." else ord(letter) - ord("a") + 1 for letter in text.replace(" ", "")])


def test_voxels_that_share_a_face_are_one_piece() -> None:
    mask = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 1]], bool)
    assert pieces(mask).tolist() == [[1, 1, 0], [0, 0, 2], [0, 0, 2]]


def test_numbers_need_be_in_no_order_and_of_no_range() -> None:
    reference = row("aa.b")
    found = overlaps(np.where(reference > 0, reference * 1000, 0), reference)
    assert found.intersections.tolist() == found.unions.tolist() == [2, 1]
    assert (found.reference_sizes.tolist(), found.predicted_sizes.tolist()) == ([2, 1], [2, 1])
    assert overlaps(row("ab"), row("ab")).intersections.tolist() == [1, 1], "a map may have no voxel without object"


def test_precision_counts_hits_and_what_has_no_partner() -> None:
    # a: 8 of 10 voxels (IoU 0.8). b: missed. A third object is found where nothing is.
    found = overlaps(row("aaaaaaaa...........cc"), row("aaaaaaaaaa...bbb....."))
    assert found.intersections.tolist() == [8]
    assert precision_at(found, 0.5) == pytest.approx(1 / 3)
    assert precision_at(found, 0.75) == pytest.approx(1 / 3)
    assert precision_at(found, 0.85) == 0
    # Above 0.5, 0.55, ... 0.75, which are six of ten thresholds.
    assert average_precision(found) == pytest.approx(6 / 10 / 3)


def test_an_iou_of_exactly_the_threshold_is_no_hit() -> None:
    found = overlaps(row("aaaaaaa..."), row("aaaaaaaaaa"))
    assert precision_at(found, 0.65) == 1
    assert precision_at(found, 0.7) == 0
    assert precision_at(overlaps(row("a."), row("aa")), 0.5) == 0


def test_thresholds_are_those_of_the_contest() -> None:
    assert THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def test_two_objects_found_as_one_are_one_hit_at_most() -> None:
    found = overlaps(row("aaaaaaa."), row("aaaabbbc"))
    # a has IoU 4 / 7, b 3 / 7; c is missed.
    assert precision_at(found, 0.5) == pytest.approx(1 / 3)
    assert precision_at(found, 0.6) == 0


def test_the_aggregated_jaccard_by_hand() -> None:
    # a: 3 of 5 shared with the first, whose union is 5. b: 2 shared with the second, union 4. The third is in no pair.
    found = overlaps(row("aaa..bbb.cc"), row("aaaaabb.b.."))
    assert found.unions.tolist() == [5, 4]
    assert aggregated_jaccard(found) == pytest.approx((3 + 2) / (5 + 4 + 2))


def test_a_missed_object_adds_its_size_below() -> None:
    assert aggregated_jaccard(overlaps(row("aa..."), row("aa.bb"))) == pytest.approx(2 / 4)


def test_a_predicted_object_may_be_the_best_of_several() -> None:
    # Both are best met by the one object of 6: intersections 2 and 3, unions 6 and 6.
    assert aggregated_jaccard(overlaps(row("aaaaaa"), row("aa.bbb"))) == pytest.approx((2 + 3) / (6 + 6))


def test_of_two_pieces_of_an_object_the_better_one_is_its_partner() -> None:
    found = overlaps(row("aabbb"), row("aaaaa"))
    assert aggregated_jaccard(found) == pytest.approx(3 / (5 + 2))


def test_empty_maps() -> None:
    nothing, something = row("..."), row("aa.")
    for measure in (average_precision, aggregated_jaccard):
        assert math.isnan(measure(overlaps(nothing, nothing)))
        assert measure(overlaps(nothing, something)) == measure(overlaps(something, nothing)) == 0
        assert measure(overlaps(something, something)) == 1


def test_shapes_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 5, (2, 4, 6, 5))
    flat, cubic = overlaps(prediction.ravel(), reference.ravel()), overlaps(prediction, reference)
    assert average_precision(flat) == average_precision(cubic)
    assert aggregated_jaccard(flat) == aggregated_jaccard(cubic)
