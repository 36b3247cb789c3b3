from __future__ import annotations

import hashlib

import pytest

from pipelines.cases.case import RawEntry
from pipelines.cases.splits import assign_folds, given_folds

PATIENTS = [f"patient_{number}" for number in range(40)]


def entry(case_id: str, fold: int | None, patient: str | None = None) -> RawEntry:
    return RawEntry(case_id, (f"{case_id}.nii",), "label.nii", patient, "train", fold)


def test_the_fold_is_the_hash_of_the_name() -> None:
    folds = assign_folds(PATIENTS, 5)
    assert folds == {name: int(hashlib.sha256(name.encode()).hexdigest(), 16) % 5 for name in PATIENTS}


def test_an_added_patient_moves_nobody() -> None:
    before = assign_folds(PATIENTS, 5)
    after = assign_folds(["new", *reversed(PATIENTS)], 5)
    assert {name: after[name] for name in PATIENTS} == before


@pytest.mark.parametrize(
    ("patients", "num_folds", "message"),
    [
        (["a", "b"], 3, "num_folds: 3 folds, but only 2 training patients; set num_folds to 2 or fewer"),
        (["a", "a", "b"], 3, "only 2 training patients"),
        (PATIENTS, 1, "num_folds: 1; cross-validation needs 2 folds or more"),
        (["brain_001", "brain_002"], 2, r"no training patient falls into fold \[1\]; set num_folds lower"),
    ],
)
def test_folds_that_cannot_be_filled_are_refused(patients: list[str], num_folds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign_folds(patients, num_folds)


def test_given_folds_are_kept() -> None:
    assert given_folds([entry("a", 1), entry("b", 0, "p"), entry("c", 0, "p")], 2) == {"a": 1, "p": 0}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("a", 0), entry("b", None)], "case b: no fold, while other training cases have one"),
        ([entry("a", 0), entry("b", 2)], r"case b: fold 2, but num_folds is 2, so folds are 0\.\.1"),
        ([entry("a", 0, "p"), entry("b", 1, "p")], "case b: patient p is in fold 1 and in fold 0"),
        ([entry("a", 0), entry("b", 0)], r"no training patient falls into fold \[1\]"),
    ],
)
def test_wrong_given_folds_are_refused(entries: list[RawEntry], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given_folds(entries, 2)
