"""Score rows as the points of a figure."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.intervals import bootstrap_interval
from pipelines.evaluation.ranking import case_means
from pipelines.reporting.score_figures import Strip

Row = Mapping[str, Any]


def ranked_scores(scores: Mapping[str, Sequence[Row]], entries: Sequence[str], split: str) -> dict[str, list[Row]]:
    """Rows of the split that is compared, entries in the order given, only cases that all of them have."""
    of_split = {entry: [row for row in scores.get(entry, ()) if row["split"] == split] for entry in entries}
    common = set.intersection(*({row["case_id"] for row in rows} for rows in of_split.values())) if of_split else set()
    return {entry: [row for row in rows if row["case_id"] in common] for entry, rows in of_split.items()}


def case_strips(rows: Mapping[str, Sequence[Row]], measure: str, group: str = "") -> list[Strip]:
    """One point a case: its mean over classes and seeds; the interval is a bootstrap over patients.

    Args:
        rows: score rows by entry.
        measure: key of the measure.
        group: of the strips.
    """
    strips = []
    for entry, of_entry in rows.items():
        means = {case: value for case, value in sorted(case_means(of_entry, measure).items()) if math.isfinite(value)}
        patients = {row["case_id"]: row["patient"] for row in of_entry}
        interval = bootstrap_interval(list(means.values()), [patients[case] for case in means])
        strips.append(Strip(entry, group, tuple(means.values()), *interval))
    return strips


def class_strips(rows: Mapping[str, Sequence[Row]], measure: str, classes: Sequence[str]) -> list[Strip]:
    """One point a case and class, one frame a class."""
    by_class: dict[str, dict[str, list[Row]]] = {name: {entry: [] for entry in rows} for name in classes}
    for entry, of_entry in rows.items():
        for row in of_entry:
            by_class[row["class_name"]][entry].append(row)
    return [strip for name in classes for strip in case_strips(by_class[name], measure, name)]


def seed_strips(rows: Mapping[str, Sequence[Row]], measure: str) -> list[Strip]:
    """One point a seed: its mean over cases; the bar is one standard deviation to either side.

    Entries without a second seed have no row; so an empty list says that there is nothing to compare.
    """
    strips = []
    for entry, of_entry in rows.items():
        by_seed: dict[int, list[Row]] = defaultdict(list)
        for row in of_entry:
            if row["seed"] is not None:
                by_seed[row["seed"]].append(row)
        means = [
            statistics.fmean(defined)
            for _, of_seed in sorted(by_seed.items())
            if (defined := [value for value in case_means(of_seed, measure).values() if math.isfinite(value)])
        ]
        if len(means) > 1:
            mean, spread = statistics.fmean(means), statistics.stdev(means)
            strips.append(Strip(entry, "", tuple(means), mean, mean - spread, mean + spread))
    return strips
