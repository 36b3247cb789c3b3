"""The table that compares entries.

Rule:
    A case's Dice is the mean over its foreground classes (NaN left out) for each seed, then the mean over seeds. An
    entry's Dice is the mean over the out-of-fold cases, with a 95 % bootstrap interval over patients. Only cases
    that every entry predicted out of fold are compared, so that none wins by easier cases (a reference row
    does not narrow them).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.evaluation.case_scores import MEASURES, OUT_OF_FOLD, TEST
from pipelines.evaluation.intervals import bootstrap_interval

ScoreRow = Mapping[str, Any]


def ranking_rows(
    results: Mapping[str, Sequence[ScoreRow]],
    info: Mapping[str, Mapping[str, Any]],
    num_samples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compare entries, best first.

    Args:
        results: score rows of each entry, with the keys of `pipelines.evaluation.case_scores`.
        info: for each entry what else its row shall say (num_parameters, train_seconds, ...). `is_reference: True`
            marks a yardstick: it stands in the table by its Dice but takes no rank.
        num_samples: bootstrap samples.
        seed: seed of the bootstrap.

    Returns:
        One dict an entry, sorted by Dice, ready for JSON (None for what is not defined):
        rank (1 ..., None for a reference), entry, dice, dice_low, dice_high, num_cases, num_patients,
        classes {name: {dice, iou, hd95_mm, assd_mm, nsd}} (means over cases),
        num_cases_left_out (predicted by this entry but not by all competing ones), dice_per_seed {seed: mean},
        test (None, or a dict with dice, dice_low, dice_high, num_cases, num_patients, classes),
        then the keys of `info`.

    Raises:
        ValueError: no case was predicted out of fold by every entry.
    """
    assert results, "nothing to compare"
    assert results.keys() == info.keys(), (list(results), list(info))
    out_of_fold = {entry: [row for row in rows if row["split"] == OUT_OF_FOLD] for entry, rows in results.items()}
    predicted = {entry: {row["case_id"] for row in rows} for entry, rows in out_of_fold.items()}
    competing = [predicted[entry] for entry in results if not info[entry].get("is_reference", False)]
    common = set.intersection(*(competing or predicted.values()))
    if not common:
        raise ValueError(
            "no case was predicted out of fold by every entry ("
            + ", ".join(f"{entry}: {len(cases)} cases" for entry, cases in predicted.items())
            + "); train the entries on the same folds"
        )
    table = []
    for entry, rows in results.items():
        compared = [row for row in out_of_fold[entry] if row["case_id"] in common]
        test = [row for row in rows if row["split"] == TEST]
        row = {"rank": None, "entry": entry} | _summary(compared, num_samples, seed)
        row["num_cases_left_out"] = len(predicted[entry] - common)
        row["dice_per_seed"] = _dice_per_seed(compared)
        row["test"] = _summary(test, num_samples, seed) if test else None
        table.append(row | dict(info[entry]))
    table.sort(key=_by_dice)
    ranked = [row for row in table if not row.get("is_reference", False)]
    for rank, row in enumerate(ranked, start=1):
        row["rank"] = rank
    return [_nan_to_none(row) for row in table]


def case_dice(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """Dice of each case: mean over its classes for each seed, then over seeds; NaN left out, NaN if nothing is left."""
    by_case_and_seed: dict[str, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_case_and_seed[row["case_id"]][row["seed"]].append(row["dice"])
    return {case: _mean(_mean(values) for values in seeds.values()) for case, seeds in by_case_and_seed.items()}


def _summary(rows: Sequence[ScoreRow], num_samples: int, seed: int) -> dict[str, Any]:
    dice_of_case = case_dice(rows)
    patient_of_case = {row["case_id"]: row["patient"] for row in rows}
    # The order of the rows must not move the interval: the same draws always fall on the same patients.
    cases = sorted(dice_of_case)
    mean, low, high = bootstrap_interval(
        [dice_of_case[case] for case in cases], [patient_of_case[case] for case in cases], num_samples, seed
    )
    return {
        "dice": mean,
        "dice_low": low,
        "dice_high": high,
        "num_cases": len(cases),
        "num_patients": len(set(patient_of_case.values())),
        "classes": _class_means(rows),
    }


def _class_means(rows: Sequence[ScoreRow]) -> dict[str, dict[str, float]]:
    """Mean of each measure and class: over the seeds of a case, then over cases; NaN left out."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        of_class = values.setdefault(row["class_name"], {measure: defaultdict(list) for measure in MEASURES})
        for measure in MEASURES:
            of_class[measure][row["case_id"]].append(row[measure])
    return {
        name: {measure: _mean(_mean(seeds) for seeds in cases.values()) for measure, cases in of_class.items()}
        for name, of_class in values.items()
    }


def _dice_per_seed(rows: Sequence[ScoreRow]) -> dict[str, float]:
    rows_of_seed: dict[str, list[ScoreRow]] = defaultdict(list)
    for row in rows:
        if row["seed"] is not None:
            rows_of_seed[str(row["seed"])].append(row)
    return {seed: _mean(case_dice(rows_of_seed[seed]).values()) for seed in sorted(rows_of_seed)}


def _by_dice(row: Mapping[str, Any]) -> tuple[bool, float, str]:
    is_undefined = math.isnan(row["dice"])
    return is_undefined, 0.0 if is_undefined else -row["dice"], row["entry"]


def _mean(values: Iterable[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
