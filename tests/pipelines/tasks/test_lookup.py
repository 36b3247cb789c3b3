from __future__ import annotations

import inspect

import pytest

from pipelines.evaluation.measures import Measure
from pipelines.tasks import segmentation
from pipelines.tasks.lookup import task_of


def test_a_family_is_a_file_with_all_that_stages_ask_of_it() -> None:
    task = task_of("segmentation")
    assert task is segmentation
    for name in ("collect", "fingerprint", "plan", "prepare", "training", "evaluate"):
        assert inspect.isfunction(getattr(task, name)), name
    assert task.CONFIGURATIONS


@pytest.mark.parametrize("family", ["segmentaton", "lookup", "segmentation_training", "__init__", ""])
def test_an_unknown_family_is_told_with_the_known_ones(family: str) -> None:
    with pytest.raises(ValueError) as error:
        task_of(family)
    assert str(error.value).startswith(f"family {family!r} is not known; params.yaml takes one of: graph, segmentation")


@pytest.mark.parametrize("family", ["classification", "sequence"])
def test_a_family_of_networks_without_a_task_is_told_as_such(family: str) -> None:
    told = f"family '{family}' has networks, but a study cannot train them yet; params.yaml takes one of: graph, segm"
    with pytest.raises(ValueError, match=told):
        task_of(family)


@pytest.mark.parametrize("family", ["graph", "segmentation"])
def test_every_family_says_how_its_entries_are_compared(family: str) -> None:
    task = task_of(family)
    for name in ("reference_rows", "dataset_facts", "fingerprint_words", "gallery"):
        assert inspect.isfunction(getattr(task, name)), name
    assert all(isinstance(measure, Measure) for measure in (*task.MEASURES, *task.DECLARABLE))
    assert task.RANKED_SPLIT in ("validation", "test")
    assert all(isinstance(text, str) for text in (*task.REFERENCE, task.UNIT, *task.VALIDATION_CURVE))
