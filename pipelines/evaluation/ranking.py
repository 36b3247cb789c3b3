"""The table that compares entries.

Rule:
    A case's score is the mean of the primary measure over its classes (NaN left out) for each seed, then the mean over
    seeds. An entry's score is the mean over the cases of the ranked split, with a 95 % bootstrap interval over
    patients. Only cases that every entry predicted are compared, so that none wins by easier cases (a reference row
    does not narrow them). How far an entry is behind the first, or above the reference, is the mean of the differences
    case by case, with an interval of its own: entries meet on the same cases, and what makes a case hard cancels out.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipelines.evaluation.case_scores import TEST
from pipelines.evaluation.intervals import bootstrap_interval
from pipelines.evaluation.measures import Measure

ScoreRow = Mapping[str, Any]


def ranking_rows(
    results: Mapping[str, Sequence[ScoreRow]],
    info: Mapping[str, Mapping[str, Any]],
    measures: Sequence[Measure],
    ranked_split: str,
    num_samples: int = 2000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compare entries, best first.

    Args:
        results: score rows of each entry: case_id, patient, class_name, split, fold, seed and a column a measure.
        info: for each entry what else its row shall say (num_parameters, train_seconds, ...). `is_reference: True`
            marks a yardstick: it stands in the table by its score but takes no rank.
        measures: columns of the score rows; the first decides.
        ranked_split: "validation" or "test"; rows of the other one do not rank.
        num_samples: bootstrap samples.
        seed: seed of the bootstrap.

    Returns:
        One dict an entry, best first, ready for JSON (None for what is not defined):
        rank (1 ..., None for a reference), entry, score, score_low, score_high, measure (key of the primary one),
        num_cases, num_patients, classes {name: {measure key: mean over cases}},
        num_cases_left_out (predicted by this entry but not by all competing ones), score_per_seed {seed: mean},
        score_std_over_seeds (of a sample, over n - 1; None below two seeds),
        behind_first {difference, low, high} (positive: the first is better; None for the first itself),
        above_reference (the same towards the reference row, positive where the entry is better; None for a reference,
        and where there is none),
        test (None, or a dict with score, score_low, score_high, num_cases, num_patients, classes; None where the test
        split is the ranked one), then the keys of `info`.

    Raises:
        ValueError: no case of the ranked split was predicted by every entry.
    """
    assert results, "nothing to compare"
    assert results.keys() == info.keys(), (list(results), list(info))
    primary = measures[0]
    ranked = {entry: [row for row in rows if row["split"] == ranked_split] for entry, rows in results.items()}
    predicted = {entry: {row["case_id"] for row in rows} for entry, rows in ranked.items()}
    competing = [predicted[entry] for entry in results if not info[entry].get("is_reference", False)]
    common = set.intersection(*(competing or predicted.values()))
    if not common:
        raise ValueError(
            f"no case of the split {ranked_split!r} was predicted by every entry ("
            + ", ".join(f"{entry}: {len(cases)} cases" for entry, cases in predicted.items())
            + "); train the entries on the same folds"
        )
    compared = {entry: [row for row in rows if row["case_id"] in common] for entry, rows in ranked.items()}
    table = []
    for entry, rows in results.items():
        test = [row for row in rows if row["split"] == TEST != ranked_split]
        row = {"rank": None, "entry": entry} | _summary(compared[entry], measures, num_samples, seed)
        row["num_cases_left_out"] = len(predicted[entry] - common)
        row["score_per_seed"] = per_seed = _score_per_seed(compared[entry], primary.key)
        row["score_std_over_seeds"] = statistics.stdev(per_seed.values()) if len(per_seed) > 1 else None
        row["behind_first"] = row["above_reference"] = None
        row["test"] = _summary(test, measures, num_samples, seed) if test else None
        table.append(row | dict(info[entry]))
    table.sort(key=lambda row: (math.isnan(row["score"]), -primary.sign * row["score"], row["entry"]))
    competitors = [row for row in table if not row.get("is_reference", False)]
    for rank, row in enumerate(competitors, start=1):
        row["rank"] = rank
    if competitors:
        first = competitors[0]["entry"]
        for row in table:
            if row["entry"] != first:
                row["behind_first"] = _ahead(compared[first], compared[row["entry"]], primary, num_samples, seed)
    references = [row["entry"] for row in table if row.get("is_reference", False)]
    for row in competitors if references else []:
        row["above_reference"] = _ahead(compared[row["entry"]], compared[references[0]], primary, num_samples, seed)
    return [_nan_to_none(row) for row in table]


def case_means(rows: Iterable[ScoreRow], measure: str) -> dict[str, float]:
    """A measure of each case: mean over its classes for each seed, then over seeds; NaN left out, NaN if none is left.

    Args:
        rows: score rows of one entry and split.
        measure: key of the measure.
    """
    by_case_and_seed: dict[str, dict[int | None, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_case_and_seed[row["case_id"]][row["seed"]].append(row[measure])
    return {case: _mean(_mean(values) for values in seeds.values()) for case, seeds in by_case_and_seed.items()}


def _summary(rows: Sequence[ScoreRow], measures: Sequence[Measure], num_samples: int, seed: int) -> dict[str, Any]:
    score_of_case = case_means(rows, measures[0].key)
    patient_of_case = {row["case_id"]: row["patient"] for row in rows}
    # The order of the rows must not move the interval: the same draws always fall on the same patients.
    cases = sorted(score_of_case)
    mean, low, high = bootstrap_interval(
        [score_of_case[case] for case in cases], [patient_of_case[case] for case in cases], num_samples, seed
    )
    return {
        "score": mean,
        "score_low": low,
        "score_high": high,
        "measure": measures[0].key,
        "num_cases": len(cases),
        "num_patients": len(set(patient_of_case.values())),
        "classes": _class_means(rows, [measure.key for measure in measures]),
    }


def _ahead(
    entry: Sequence[ScoreRow], other: Sequence[ScoreRow], measure: Measure, num_samples: int, seed: int
) -> dict[str, float]:
    leading, following = case_means(entry, measure.key), case_means(other, measure.key)
    patients = {row["case_id"]: row["patient"] for row in entry}
    cases = sorted(leading.keys() & following.keys())
    differences = [measure.sign * (leading[case] - following[case]) for case in cases]
    mean, low, high = bootstrap_interval(differences, [patients[case] for case in cases], num_samples, seed)
    return {"difference": mean, "low": low, "high": high}


def _class_means(rows: Sequence[ScoreRow], measures: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean of each measure and class: over the seeds of a case, then over cases; NaN left out."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        of_class = values.setdefault(row["class_name"], {measure: defaultdict(list) for measure in measures})
        for measure in measures:
            of_class[measure][row["case_id"]].append(row[measure])
    return {
        name: {measure: _mean(_mean(seeds) for seeds in cases.values()) for measure, cases in of_class.items()}
        for name, of_class in values.items()
    }


def _score_per_seed(rows: Sequence[ScoreRow], measure: str) -> dict[str, float]:
    rows_of_seed: dict[int, list[ScoreRow]] = defaultdict(list)
    for row in rows:
        if row["seed"] is not None:
            rows_of_seed[row["seed"]].append(row)
    return {str(seed): _mean(case_means(rows_of_seed[seed], measure).values()) for seed in sorted(rows_of_seed)}


def _mean(values: Iterable[float]) -> float:
    kept = [value for value in values if not math.isnan(value)]
    return math.fsum(kept) / len(kept) if kept else math.nan


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
