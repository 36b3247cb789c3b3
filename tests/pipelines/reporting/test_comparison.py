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


@pytest.mark.parametrize(("number", "words"), [(1, "1 case"), (0, "0 cases"), (1000, "1,000 cases")])
def test_cases_are_counted_in_words(number, words):
    assert Comparison.of_task(segmentation).cases(number) == words
