from __future__ import annotations

import re

import pytest

from pipelines.reporting.figures import entry_colours
from pipelines.reporting.sections import (
    MOST_CASES_LISTED,
    cases_section,
    classes_section,
    curves_section,
    gallery_section,
    heading,
    plans_section,
    ranking_section,
    repeat_section,
    search_section,
)
from tests.pipelines.reporting.small_report import GRAPH, SEGMENTATION

EVIL = "<script>"


def row(entry, rank, score, **more):
    return {
        "rank": rank,
        "entry": entry,
        "score": score,
        "score_low": score - 0.01,
        "score_high": score + 0.01,
        "num_cases": 10,
        "num_patients": 5,
        "num_cases_left_out": 0,
        "score_std_over_seeds": None,
        "classes": {},
        "test": None,
        "tuning": None,
    } | more


def ranking(rows, comparison=SEGMENTATION):
    names = [row["entry"] for row in rows]
    return ranking_section(
        rows, comparison, entry_colours(names, [row["entry"] for row in rows if not row["rank"]])
    ).html


def test_names_are_escaped_everywhere():
    classes = {EVIL: {"dice": 0.5}}
    rows = [row(EVIL, 1, 0.9, architecture=EVIL, num_cases_left_out=2, classes=classes)]
    parts = [
        heading(EVIL, 1, [EVIL], [EVIL]),
        ranking(rows),
        cases_section([], {EVIL: {EVIL: 0.5}}, SEGMENTATION).html,
        classes_section(rows, SEGMENTATION, []).html,
        gallery_section(EVIL, {EVIL: "#000000"}, [(EVIL, EVIL, {"axial": ("data:", 1.0)})]).html,
        search_section({EVIL: ([], {EVIL: 2}, {EVIL: {EVIL: EVIL}}, {EVIL: EVIL})}, SEGMENTATION).html,
        plans_section({EVIL: {"reasons": [f"{EVIL}: {EVIL}", EVIL], "overrides": {EVIL: 1}, "variant": EVIL}}).html,
        repeat_section(EVIL, EVIL, {EVIL: EVIL, "more": {EVIL: EVIL}, "list": [EVIL]}).html,
    ]
    for part in parts:
        assert EVIL not in part
        assert "&lt;script&gt;" in part


def test_a_reference_below_the_scale_is_not_drawn():
    html = ranking([row("a", 1, 0.9), row("intensity", None, 0.4)])
    assert html.count("<circle") == 1
    assert "0.85 – 0.95" in html


def test_every_cell_says_what_it_is_for_screens_without_columns():
    html = ranking([row("a", 1, 0.9), row("ref", None, 0.4)])
    heads = re.findall(r'<th role="columnheader"[^>]*>([^<]*)', html)
    assert re.findall(r'<td [^>]*data-label="([^"]*)"', html) == heads * 2


def test_what_is_missing_has_no_value_to_sort_by():
    html = ranking([row("a", 1, 0.9, num_parameters=5), row("ref", None, 0.4)])
    cells = re.findall(r'<td role="cell" class="parameters[^>]*>', html)
    assert ["data-value" in cell for cell in cells] == [True, False]


@pytest.mark.parametrize(
    ("rows", "comparison", "words"),
    [
        ([row("a", 1, 0.9)], SEGMENTATION, "Out-of-fold scores, pooled over the folds"),
        ([row("a", 1, 0.9)], GRAPH, "Scores of the nodes of the data set&#x27;s own test split"),
        ([row("a", 1, 0.9, tuning=5), row("b", 2, 0.8)], SEGMENTATION, "Not all entries had the same number of trials"),
        ([row("a", 1, 0.9, num_cases_left_out=3)], SEGMENTATION, "because not every entry predicted them: a: 3."),
    ],
)
def test_the_notes_say_what_the_figures_are(rows, comparison, words):
    assert words in ranking(rows, comparison)


def test_equal_trials_need_no_note():
    assert "trials in the search" not in ranking([row("a", 1, 0.9, tuning=5), row("b", 2, 0.8, tuning=5)])


def test_the_scores_of_every_case_can_be_read():
    html = cases_section([], {"a": {"c1": 0.5, "c2": float("nan")}, "b": {"c1": 0.25}}, SEGMENTATION).html
    lines = re.findall(r"<tr>(.*?)</tr>", html)[1:]
    assert [re.findall(r">([^<]+)<", line) for line in lines] == [["c1", "0.500", "0.250"], ["c2", "–", "–"]]


def test_too_many_cases_are_not_listed():
    section = cases_section(["<svg/>"], {"a": {str(number): 0.5 for number in range(MOST_CASES_LISTED + 1)}}, GRAPH)
    assert section.title == "Node by node"
    assert "<table" not in section.html


def test_an_odd_picture_has_the_note_beside_it():
    assert "beside" in curves_section(["<svg/>"]).html
    assert "beside" not in curves_section(["<svg/>", "<svg/>"]).html
    assert curves_section([]).html == ""


def test_a_plan_says_each_decision_under_its_name():
    plans = {"a": {"reasons": ["patch: 8x8 because of memory", "no name"], "patch_size": [8, 8], "batch_size": 2}}
    html = plans_section(plans).html
    assert "<dt>patch</dt><dd>8x8 because of memory</dd><dt></dt><dd>no name</dd>" in html
    assert "patch 8 × 8 · batch 2" in html


def test_a_search_says_how_its_trials_ended_and_what_it_found():
    found = {"fold 0": {"optimizer.learning_rate": 0.00312345}, "fold 1": {}}
    search = (["<svg/>"], {"finished": 2, "stopped_early": 4}, found, {"optimizer.learning_rate": 0.01})
    html = search_section({"nnunet": search}, SEGMENTATION).html
    assert "6 trials: 2 finished and 4 stopped early." in html
    assert "<td>0.01</td><td>0.003123</td><td>–</td>" in html


def test_provenance_is_one_list():
    html = repeat_section(
        "dvc repro", "", {"commit": "abc", "machine": {"num_cores": 4}, "seeds": ["0", "1"], "x": None}
    ).html
    assert "<dt>num_cores</dt><dd>4</dd><dt>seeds</dt><dd>0, 1</dd><dt>x</dt><dd>–</dd>" in html
