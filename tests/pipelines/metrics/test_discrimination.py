from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.metrics.discrimination import FULL_SCALE, area_under_roc, in_16_bits, sensitivity, specificity

PREDICTION = np.array([1, 1, 0, 0, 1, 0, 0, 0], bool)
REFERENCE = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)


def test_sensitivity_and_specificity_by_hand() -> None:
    assert sensitivity(PREDICTION, REFERENCE) == 2 / 4
    assert specificity(PREDICTION, REFERENCE) == 3 / 4


def area(values: list[int], reference: list[int]) -> float:
    return area_under_roc(np.array(values, np.uint16), np.array(reference, bool))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9, 8, 2, 1], 1.0),
        ([1, 2, 8, 9], 0.0),
        ([5, 5, 5, 5], 0.5),
        # Of four pairs: above, above, below, above.
        ([7, 3, 5, 1], 3 / 4),
        # Above, tie, above, above.
        ([7, 5, 5, 1], 3.5 / 4),
        ([FULL_SCALE, FULL_SCALE, 0, FULL_SCALE], 3 / 4),
    ],
)
def test_the_area_is_the_share_of_pairs_in_order(values: list[int], expected: float) -> None:
    assert area(values, [1, 1, 0, 0]) == expected


def test_the_area_does_not_overflow_for_a_large_image() -> None:
    reference = np.zeros((3000, 3000), bool)
    reference[:1500] = True
    assert area_under_roc(reference.astype(np.uint16), reference) == 1


def test_probabilities_in_16_bits_are_rounded_and_kept_in_range() -> None:
    assert in_16_bits(np.array([-1e-9, 0, 0.5, 1, 1 + 1e-6])).tolist() == [0, 0, 32768, FULL_SCALE, FULL_SCALE]


def test_what_has_nothing_to_count_is_left_out() -> None:
    everything, nothing = np.ones(4, bool), np.zeros(4, bool)
    assert math.isnan(sensitivity(everything, nothing))
    assert math.isnan(specificity(nothing, everything))
    for reference in (everything, nothing):
        assert math.isnan(area_under_roc(np.zeros(4, np.uint16), reference))
