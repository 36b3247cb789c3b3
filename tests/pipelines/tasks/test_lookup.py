from __future__ import annotations

import inspect

import pytest

from pipelines.tasks import segmentation
from pipelines.tasks.lookup import task_of


def test_a_family_is_a_file_with_all_that_stages_ask_of_it() -> None:
    task = task_of("segmentation")
    assert task is segmentation
    for name in ("collect", "fingerprint", "configurations", "plan", "prepare", "training", "evaluate"):
        assert inspect.isfunction(getattr(task, name)), name


@pytest.mark.parametrize("family", ["segmentaton", "lookup", "segmentation_training", "__init__", ""])
def test_an_unknown_family_is_told_with_the_known_ones(family: str) -> None:
    with pytest.raises(ValueError) as error:
        task_of(family)
    assert str(error.value).startswith(f"family {family!r} is not known; params.yaml takes one of: segmentation")
