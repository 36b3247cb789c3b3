"""Folds: drawn from the patients' names, or given by the source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipelines.cases.case import RawEntry


def patient_of(entry: RawEntry) -> str:
    """The patient of a case; a case whose source does not say is a patient of its own."""
    return entry.patient or entry.case_id


def assign_folds(patients: Sequence[str], num_folds: int) -> dict[str, int]:
    """Give each patient a fold: sha256 of the name modulo the number of folds.

    It depends on nothing but the name, so an added patient moves nobody. Folds are equal in size only on average.

    Raises:
        ValueError: fewer than two folds, more folds than patients, or a fold that nobody falls into.
    """
    num_patients = len(set(patients))
    if num_folds < 2:
        raise ValueError(f"num_folds: {num_folds}; cross-validation needs 2 folds or more")
    if num_folds > num_patients:
        raise ValueError(
            f"num_folds: {num_folds} folds, but only {num_patients} training patients; set num_folds to "
            f"{num_patients} or fewer"
        )
    folds = {
        patient: int.from_bytes(hashlib.sha256(patient.encode()).digest(), "big") % num_folds
        for patient in sorted(set(patients))
    }
    _check_all_filled(folds, num_folds, "set num_folds lower, or give the folds in a manifest with a column `fold`")
    return folds


def given_folds(entries: Sequence[RawEntry], num_folds: int) -> dict[str, int]:
    """Folds of the patients as the source gives them.

    Args:
        entries: the training cases.
        num_folds: how many the study wants.

    Raises:
        ValueError: a case without fold, a fold outside 0..num_folds-1, a patient in two folds, or an empty fold.
    """
    folds: dict[str, int] = {}
    for entry in entries:
        if entry.fold is None:
            raise ValueError(
                f"case {entry.case_id}: no fold, while other training cases have one; fill the column `fold` for all "
                "training cases, or leave it out"
            )
        if not 0 <= entry.fold < num_folds:
            raise ValueError(
                f"case {entry.case_id}: fold {entry.fold}, but num_folds is {num_folds}, so folds are "
                f"0..{num_folds - 1}; correct the column `fold` or num_folds"
            )
        patient = patient_of(entry)
        if folds.setdefault(patient, entry.fold) != entry.fold:
            raise ValueError(
                f"case {entry.case_id}: patient {patient} is in fold {entry.fold} and in fold {folds[patient]}; all "
                "cases of a patient share one fold, else its score is not held out"
            )
    _check_all_filled(folds, num_folds, "correct the column `fold` or set num_folds lower")
    return folds


def _check_all_filled(folds: dict[str, int], num_folds: int, fix: str) -> None:
    empty = sorted(set(range(num_folds)) - set(folds.values()))
    if empty:
        raise ValueError(f"num_folds: {num_folds}, but no training patient falls into fold {empty}; {fix}")
