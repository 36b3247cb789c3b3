from __future__ import annotations

import math

import pytest

from pipelines.evaluation.intervals import bootstrap_interval
from pipelines.reporting.score_points import case_strips, class_strips, ranked_scores, seed_strips


def row(case_id, dice, class_name="liver", split="validation", seed=0, patient=None):
    return {
        "case_id": case_id,
        "patient": patient or case_id,
        "class_name": class_name,
        "split": split,
        "seed": seed,
        "dice": dice,
    }


def test_only_what_all_entries_have_in_the_ranked_split_is_drawn():
    scores = {"a": [row("x", 0.5), row("y", 0.9)], "b": [row("x", 0.5), row("y", 0.1, split="test")]}
    found = ranked_scores(scores, ["b", "a"], "validation")
    assert list(found) == ["b", "a"]
    assert {row["case_id"] for rows in found.values() for row in rows} == {"x"}
    assert ranked_scores({}, [], "validation") == {}


def test_a_case_is_a_point_and_the_interval_is_over_patients():
    rows = [row("x", 0.2, patient="p"), row("y", 0.6, patient="q"), row("z", math.nan)]
    (strip,) = case_strips({"a": rows}, "dice")
    assert (strip.entry, strip.values) == ("a", (0.2, 0.6))
    assert (strip.mean, strip.low, strip.high) == bootstrap_interval([0.2, 0.6], ["p", "q"])


def test_every_class_is_a_group_with_every_entry():
    rows = {"a": [row("x", 0.2), row("x", 0.8, "spleen")], "b": [row("x", 0.4)]}
    found = [(strip.group, strip.entry, strip.values) for strip in class_strips(rows, "dice", ["spleen", "liver"])]
    assert found == [("spleen", "a", (0.8,)), ("spleen", "b", ()), ("liver", "a", (0.2,)), ("liver", "b", (0.4,))]


def test_seeds_are_drawn_with_their_standard_deviation():
    rows = [row("x", 0.0), row("x", 1.0, seed=1), row("y", 0.5), row("y", 0.5, seed=1)]
    (strip,) = seed_strips({"a": rows, "yardstick": [row("x", 0.5, seed=None)]}, "dice")
    assert strip.values == (0.25, 0.75)
    assert strip.mean == 0.5
    assert strip.high - strip.mean == pytest.approx(0.125**0.5)
