from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pipelines.evaluation.measures import Measure
from pipelines.evaluation.ranking import case_means
from pipelines.evaluation.ranking import ranking_rows as ranking_rows_of

MEASURES = (Measure("dice", "Dice"), Measure("hd95_mm", "HD95 mm", is_larger_better=False))


def ranking_rows(results: Any, info: Any, measures: Any = MEASURES, split: str = "validation") -> list[dict[str, Any]]:
    return ranking_rows_of(results, info, measures, split)


def _row(case_id: str, dice: float, **changes: Any) -> dict[str, Any]:
    row = {
        "case_id": case_id,
        "patient": case_id,
        "class_name": "organ",
        "split": "validation",
        "fold": 0,
        "seed": 0,
        "dice": dice,
        "iou": dice / 2,
        "hd95_mm": 10 * dice,
        "assd_mm": dice,
        "nsd": dice,
        "reference_voxels": 1,
        "predicted_voxels": 1,
    }
    return row | changes


def test_best_first_with_ranks_and_info() -> None:
    results = {"weak": [_row("a", 0.5)], "strong": [_row("a", 0.9)], "base": [_row("a", 0.7)]}
    info = {"weak": {"num_parameters": 5}, "strong": {"num_parameters": 7}, "base": {"is_reference": True}}
    rows = ranking_rows(results, info)
    assert [(row["rank"], row["entry"], row["score"]) for row in rows] == [
        (1, "strong", 0.9),
        (None, "base", 0.7),
        (2, "weak", 0.5),
    ]
    assert rows[0]["num_parameters"] == 7
    assert rows[0]["test"] is None


def test_dice_is_over_classes_then_seeds_then_cases() -> None:
    rows = [
        _row("a", 0.2, seed=0),
        _row("a", 0.6, seed=0, class_name="tumour"),
        _row("a", 0.8, seed=1),
        _row("a", math.nan, seed=1, class_name="tumour"),
        _row("b", 1.0, seed=0),
        _row("b", math.nan, seed=0, class_name="tumour"),
    ]
    (row,) = ranking_rows({"net": rows}, {"net": {}})
    # Case a: seeds 0.4 and 0.8; case b: 1.
    assert row["score"] == pytest.approx((0.6 + 1.0) / 2)
    assert (row["score_low"], row["score_high"]) == pytest.approx((0.6, 1.0))
    assert row["score_per_seed"] == pytest.approx({"0": 0.7, "1": 0.8})
    assert row["classes"]["organ"]["dice"] == pytest.approx((0.5 + 1.0) / 2)
    assert row["classes"]["organ"]["hd95_mm"] == pytest.approx((5 + 10) / 2)
    assert row["classes"]["tumour"]["dice"] == pytest.approx(0.6)
    assert (row["num_cases"], row["num_patients"]) == (2, 2)


def test_test_cases_stand_beside_and_do_not_rank() -> None:
    results = {
        "one": [_row("a", 0.5), _row("t", 1.0, split="test", fold=None, seed=None)],
        "two": [_row("a", 0.6), _row("t", 0.1, split="test", fold=None, seed=None)],
    }
    rows = ranking_rows(results, {"one": {}, "two": {}})
    assert [row["entry"] for row in rows] == ["two", "one"]
    assert rows[1]["test"]["score"] == 1.0
    assert rows[1]["score"] == 0.5
    assert rows[1]["score_per_seed"] == {"0": 0.5}


def test_only_common_cases_are_compared() -> None:
    results = {"all": [_row("easy", 1.0), _row("hard", 0.2)], "some": [_row("hard", 0.3)], "base": [_row("hard", 0.1)]}
    rows = ranking_rows(results, {"all": {}, "some": {}, "base": {"is_reference": True}})
    assert [(row["entry"], row["score"], row["num_cases_left_out"]) for row in rows] == [
        ("some", 0.3, 0),
        ("all", 0.2, 1),
        ("base", 0.1, 0),
    ]


def test_a_reference_does_not_narrow_the_cases() -> None:
    results = {"net": [_row("a", 0.5), _row("b", 0.7)], "base": [_row("a", 0.1)]}
    rows = ranking_rows(results, {"net": {}, "base": {"is_reference": True}})
    assert rows[0]["score"] == pytest.approx(0.6)
    assert rows[1]["num_cases"] == 1


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"one: 1 cases, two: 1 cases\); train the entries on the same folds"):
        ranking_rows({"one": [_row("a", 1)], "two": [_row("b", 1)]}, {"one": {}, "two": {}})


def test_undefined_is_null_and_last() -> None:
    rows = ranking_rows({"void": [_row("a", math.nan)], "net": [_row("a", 0.0)]}, {"void": {}, "net": {}})
    assert [row["entry"] for row in rows] == ["net", "void"]
    assert json.loads(json.dumps(rows, allow_nan=False))[1]["score"] is None


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [_row(name, dice) for name, dice in zip("abcdef", (0.1, 0.9, 0.4, 0.6, 0.3, 0.8), strict=True)]
    (there,) = ranking_rows({"net": rows}, {"net": {}})
    (back,) = ranking_rows({"net": rows[::-1]}, {"net": {}})
    assert there == back


def test_a_measure_that_is_better_when_smaller_ranks_the_other_way() -> None:
    results = {"far": [_row("a", 0.9)], "near": [_row("a", 0.2)]}
    rows = ranking_rows(results, {"far": {}, "near": {}}, measures=MEASURES[1:])
    assert [(row["entry"], row["score"], row["measure"]) for row in rows] == [
        ("near", 2.0, "hd95_mm"),
        ("far", 9.0, "hd95_mm"),
    ]
    assert rows[1]["behind_first"] == {"difference": 7.0, "low": 7.0, "high": 7.0}


def test_how_far_behind_is_taken_case_by_case() -> None:
    # Hard and easy cases are far apart, but the difference is the same in each of them.
    levels = {"a": 0.1, "b": 0.5, "c": 0.9}
    results = {
        "first": [_row(case, level + 0.05) for case, level in levels.items()],
        "second": [_row(case, level) for case, level in levels.items()],
    }
    first, second = ranking_rows(results, {"first": {}, "second": {}})
    assert first["behind_first"] is None
    assert second["behind_first"] == pytest.approx({"difference": 0.05, "low": 0.05, "high": 0.05})
    assert second["score_low"] < first["score"] < second["score_high"]


def test_how_far_above_the_reference_is_taken_case_by_case() -> None:
    levels = {"a": 0.1, "b": 0.5, "c": 0.9}
    results = {
        "good": [_row(case, level + 0.05) for case, level in levels.items()],
        "bad": [_row(case, level - 0.05) for case, level in levels.items()],
        "base": [_row(case, level) for case, level in levels.items()],
    }
    good, base, bad = ranking_rows(results, {"good": {}, "bad": {}, "base": {"is_reference": True}})
    assert base["above_reference"] is None
    assert good["above_reference"] == pytest.approx({"difference": 0.05, "low": 0.05, "high": 0.05})
    assert bad["above_reference"] == pytest.approx({"difference": -0.05, "low": -0.05, "high": -0.05})


def test_without_a_reference_no_entry_is_above_one() -> None:
    (row,) = ranking_rows({"net": [_row("a", 0.5)]}, {"net": {}})
    assert row["above_reference"] is None


def test_how_far_behind_leaves_out_cases_that_are_not_compared() -> None:
    results = {
        "first": [_row("a", 0.8), _row("only_here", 0.0)],
        "second": [_row("a", 0.7), _row("only_here", 1.0)],
        "third": [_row("a", 0.1)],
    }
    rows = ranking_rows(results, {key: {} for key in results})
    assert rows[1]["behind_first"]["difference"] == pytest.approx(0.1)


def test_where_the_test_split_ranks_there_is_no_test_column_and_seeds_have_a_spread() -> None:
    rows = [_row("n", value, split="test", seed=seed, fold=None) for seed, value in ((0, 1.0), (1, 0.0), (10, 1.0))]
    rows.append(_row("m", 0.0, seed=0))
    (row,) = ranking_rows({"gcn": rows}, {"gcn": {}}, split="test")
    assert row["score"] == pytest.approx(2 / 3)
    assert list(row["score_per_seed"].items()) == [("0", 1.0), ("1", 0.0), ("10", 1.0)]
    assert row["score_std_over_seeds"] == pytest.approx((1 / 3) ** 0.5)
    assert (row["test"], row["num_cases"]) == (None, 1)


def test_one_seed_has_no_spread() -> None:
    (row,) = ranking_rows({"net": [_row("a", 0.5)]}, {"net": {}})
    assert row["score_std_over_seeds"] is None


def test_a_case_is_the_mean_over_classes_then_seeds() -> None:
    rows = [_row("a", 0.2), _row("a", 0.4, class_name="tumour"), _row("a", 0.9, seed=1), _row("b", math.nan)]
    means = case_means(rows, "dice")
    assert means["a"] == pytest.approx((0.3 + 0.9) / 2)
    assert math.isnan(means["b"])
