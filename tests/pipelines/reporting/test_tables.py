from __future__ import annotations

import math

import pytest

from pipelines.reporting.tables import (
    class_mean,
    class_names,
    columns,
    format_count,
    format_duration,
    format_interval,
    format_score,
    ranking_markdown,
    ranking_text,
)
from tests.pipelines.reporting.small_report import GRAPH, SEGMENTATION


def row(entry, rank, score, **more):
    scores = {"dice": score, "iou": 0.5, "hd95_mm": 2.0, "assd_mm": 1.0, "nsd": 0.9}
    return {
        "rank": rank,
        "entry": entry,
        "score": score,
        "score_low": None if score is None else score - 0.01,
        "score_high": None if score is None else score + 0.01,
        "score_std_over_seeds": None,
        "classes": {"liver": scores | {"hd95_mm": 4.0}, "tumour": scores},
        "test": None,
        "tuning": None,
        "num_parameters": 31_195_594,
        "train_seconds": 5000.0,
    } | more


@pytest.mark.parametrize(("value", "text"), [(0.81249, "0.812"), (None, "–"), (math.nan, "–"), (math.inf, "–")])
def test_a_score_has_three_digits_or_a_dash(value, text):
    assert format_score(value) == text


@pytest.mark.parametrize(
    ("bounds", "text"),
    [((0.8, 0.79, 0.81), "0.800 (0.790 to 0.810)"), ((0.8, None, None), "0.800"), ((None, None, None), "–")],
)
def test_an_interval_stands_only_where_there_is_one(bounds, text):
    assert format_interval(*bounds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(31_195_594, "31.2 M"), (48_300, "48.3 k"), (120, "120"), (2e9, "2 G"), (None, "–"), (0, "–")]
)
def test_parameters_have_three_significant_digits(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.4, "12 s"), (245, "4 min 5 s"), (5000, "1 h 23 min"), (59.7, "1 min 0 s"), (None, "–"), (math.nan, "–")],
)
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert format_duration(seconds) == text


def test_classes_stand_in_the_order_of_the_rows() -> None:
    assert class_names([row("a", 1, 0.8), {"classes": {"tumour": {}, "bone": {}}}]) == ["liver", "tumour", "bone"]


def test_the_mean_over_classes_leaves_out_what_has_no_score():
    scored = row("a", 1, 0.8)
    assert class_mean(scored, "hd95_mm") == pytest.approx(3.0)
    scored["classes"]["liver"]["hd95_mm"] = None
    assert class_mean(scored, "hd95_mm") == pytest.approx(2.0)
    scored["classes"]["tumour"]["hd95_mm"] = math.nan
    assert class_mean(scored, "hd95_mm") is None


def test_markdown_of_two_entries_and_a_reference():
    ranking = [
        row("nnunet", 1, 0.9, test={"score": 0.85}),
        row("a|b", 2, None, tuning=20),
        row("intensity", None, 0.4, num_parameters=None, train_seconds=None),
    ]
    lines = ranking_markdown(ranking, SEGMENTATION).splitlines()
    head = "| rank | entry | Dice (95 % interval) | HD95 mm | NSD | test Dice | search | parameters | training |"
    assert lines[0] == head
    assert (
        lines[2] == "| 1 | nnunet | 0.900 (0.890 to 0.910) | 3.00 | 0.900 | 0.850 | not tuned | 31.2 M | 1 h 23 min |"
    )
    assert lines[3] == r"| 2 | a\|b | – | 3.00 | 0.900 | – | 20 trials | 31.2 M | 1 h 23 min |"
    assert lines[4] == "| ref | intensity | 0.400 (0.390 to 0.410) | 3.00 | 0.900 | – | – | – | – |"
    assert lines[6].startswith("| entry | liver Dice | liver HD95 mm | liver NSD | tumour Dice |")
    assert lines[8] == "| nnunet | 0.900 | 4.00 | 0.900 | 0.900 | 2.00 | 0.900 |"
    assert lines[-1] == "`ref`: the reference row, a classifier that sees one voxel's intensity and nothing else."


def test_columns_without_anything_to_say_are_left_out():
    keys = [column.key for column in columns([row("a", 1, 0.9)], SEGMENTATION)]
    assert keys == ["rank", "entry", "score", "hd95_mm", "nsd", "search", "parameters", "training"]
    more = [column.key for column in columns([row("a", 1, 0.9, score_std_over_seeds=0.01)], GRAPH)]
    assert more == ["rank", "entry", "score", "seeds", "search", "parameters", "training"]


def test_the_best_of_a_column_comes_first():
    found = {column.key: column.is_descending_first for column in columns([row("a", 1, 0.9)], SEGMENTATION)}
    assert (found["score"], found["hd95_mm"], found["nsd"], found["rank"], found["training"]) == (
        True, False, True, False, False,
    )  # fmt: skip


def test_text_columns_are_aligned():
    ranking = [row("nnunet_with_a_long_name", 1, 0.9), row("b", 2, 0.8, num_parameters=120)]
    lines = ranking_text(ranking, SEGMENTATION).splitlines()
    header, first, second = lines[0], lines[2], lines[3]
    assert header.index("entry") == first.index("nnunet_with") == second.index("b")
    assert header.index("parameters") + len("parameters") == first.index("31.2 M") + 6 == second.index("120") + 3
    assert lines[5].split() == ["Dice", "by", "class", "liver", "tumour"]
    assert lines[-1].split() == ["b", "0.800", "0.800"]


def test_no_entries_give_an_empty_table():
    assert ranking_text([], SEGMENTATION).splitlines()[0].startswith("rank  entry")
    assert len(ranking_markdown([], SEGMENTATION).splitlines()) == 2
