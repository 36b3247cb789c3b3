from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.declared_measures import declared_values, needs_probabilities
from pipelines.tasks.segmentation import DECLARABLE

REFERENCE = np.array([[1, 1, 1, 1, 0, 1]], bool)
PREDICTION = np.array([[1, 1, 1, 1, 0, 0]], bool)


def test_every_declarable_measure_has_a_value() -> None:
    keys = [measure.key for measure in DECLARABLE]
    probability = PREDICTION.astype(np.uint16)
    values = declared_values(keys, PREDICTION, REFERENCE, probability=probability)
    assert list(values) == keys
    assert values == pytest.approx(
        {
            "object_ap": 1 / 2,
            "object_ap50": 1 / 2,
            "aggregated_jaccard": 4 / 5,
            "pixel_error": 1 / 6,
            # Thinned, all is one region: 20 pairs of 5 voxels, 12 of which the reference has too.
            "rand_error": 1 - 2 * 12 / (12 + 20),
            "sensitivity": 4 / 5,
            "specificity": 1,
            "auc": (4 + 0.5) / 5,
        }
    )


def test_nothing_is_computed_that_was_not_declared() -> None:
    assert declared_values((), PREDICTION, REFERENCE) == {}


def test_only_the_area_needs_probabilities() -> None:
    assert [measure.key for measure in DECLARABLE if needs_probabilities([measure.key])] == ["auc"]


def test_known_objects_that_touch_stay_apart() -> None:
    objects = np.array([[1, 1, 2, 2, 0, 3]])
    values = declared_values(["object_ap50", "aggregated_jaccard"], PREDICTION, REFERENCE, objects=objects)
    # One piece of four voxels, of which either object is a half: no hit.
    assert values["object_ap50"] == 0
    assert values["aggregated_jaccard"] == pytest.approx((2 + 2) / (4 + 4 + 1))


def test_objects_of_other_classes_are_left_out() -> None:
    objects = np.array([[1, 1, 1, 1, 2, 3]])
    assert declared_values(["object_ap50"], PREDICTION, REFERENCE, objects=objects)["object_ap50"] == 1 / 2


def test_voxels_that_are_not_counted_are_left_out() -> None:
    is_counted = np.array([[0, 0, 1, 1, 1, 1]], bool)
    prediction, reference = PREDICTION & is_counted, REFERENCE & is_counted
    keys = ["pixel_error", "sensitivity", "specificity", "auc"]
    values = declared_values(keys, prediction, reference, is_counted, probability=PREDICTION.astype(np.uint16))
    assert values == pytest.approx({"pixel_error": 1 / 4, "sensitivity": 2 / 3, "specificity": 1, "auc": 2.5 / 3})
