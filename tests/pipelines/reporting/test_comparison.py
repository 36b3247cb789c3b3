from __future__ import annotations

import pytest

from pipelines.reporting.comparison import Comparison
from pipelines.tasks import segmentation


def test_a_task_says_how_it_is_compared():
    comparison = Comparison.of_task(segmentation)
    assert comparison.primary.key == "dice"
    assert [measure.key for measure in comparison.headlines] == ["dice", "hd95_mm", "nsd"]
    assert comparison.is_out_of_fold
    assert comparison.reference == "intensity_classifier"


def test_a_declared_measure_is_compared_where_it_was_measured():
    comparison = Comparison.of_task(segmentation, {"dice", "auc", "fallback"})
    assert [measure.key for measure in comparison.headlines] == ["dice", "hd95_mm", "nsd", "auc"]
    ranking = [{"classes": {"vessel": {"dice": 0.5, "auc": 0.9}}}]
    assert Comparison.of_ranking(segmentation, ranking) == comparison


@pytest.mark.parametrize(("number", "words"), [(1, "1 case"), (0, "0 cases"), (1000, "1,000 cases")])
def test_cases_are_counted_in_words(number, words):
    assert Comparison.of_task(segmentation).cases(number) == words
