from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.cases.formats import decathlon as layout

HIPPOCAMPUS = Path(__file__).parents[4] / "../shared/data/Task04_Hippocampus"


def test_training_and_test_cases_are_listed(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    raw = layout.read(folder)
    assert layout.matches(folder)
    assert raw.info.channels == ("MRI",)
    assert raw.info.labels == {"background": 0, "near": 1, "far": 2}
    assert [(entry.case_id, entry.split) for entry in raw.entries] == [
        ("case_0", "train"),
        ("case_1", "train"),
        ("case_2", "train"),
        ("case_3", "train"),
        ("case_9", "test"),
    ]
    assert raw.entries[0].image_paths == (str(folder / "imagesTr" / "case_0.nii.gz"),)
    assert raw.entries[0].label_path == str(folder / "labelsTr" / "case_0.nii.gz")
    assert raw.entries[4].label_path is None


def test_the_number_of_training_cases_is_taken_as_declared(decathlon: Callable[..., Path]) -> None:
    assert layout.read(decathlon()).num_training is None
    assert layout.read(decathlon(numTraining=7)).num_training == 7


def test_a_test_label_is_found_in_labels_ts(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    (folder / "labelsTs").mkdir()
    (folder / "labelsTs" / "case_9.nii.gz").touch()
    assert layout.read(folder).entries[4].label_path == str(folder / "labelsTs" / "case_9.nii.gz")


def test_an_ignore_label_is_no_class(decathlon: Callable[..., Path]) -> None:
    info = layout.read(decathlon(labels={"0": "background", "1": "near", "2": "ignore"})).info
    assert info.labels == {"background": 0, "near": 1}
    assert info.ignore_label == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "near": 1}}, "dataset.json: `labels` is .* the Decathlon form is"),
        ({"training": ["a.nii.gz"]}, "dataset.json: `training` holds 'a.nii.gz'; each item is"),
        ({"numTraining": "4"}, "dataset.json: `numTraining` is '4'; it must be the number of training cases"),
        ({"modality": {"1": "MRI"}}, r"`modality` has the indices \['1'\]; they must be"),
    ],
)
def test_a_wrong_form_is_refused(decathlon: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout.read(decathlon(**changes))


def test_a_missing_key_is_named_with_those_found(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"training": [], "modality": {}}')
    with pytest.raises(ValueError, match=r"keys \['labels'\] are missing; needed .* found \['modality', 'training'\]"):
        layout.read(tmp_path)


def test_json_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"training": [')
    with pytest.raises(ValueError, match=r"dataset.json: not valid JSON .* correct the file"):
        layout.matches(tmp_path)


@pytest.mark.shared_data
@pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason="the Hippocampus data are not beside the checkout")
def test_the_hippocampus_is_read() -> None:
    raw = layout.read(HIPPOCAMPUS)
    assert len(raw.entries) == 201
    assert raw.info.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert raw.info.name == "Hippocampus"
