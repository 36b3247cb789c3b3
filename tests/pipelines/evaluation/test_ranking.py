from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pipelines.evaluation.ranking import ranking_rows


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
    assert [(row["rank"], row["entry"], row["dice"]) for row in rows] == [
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
    assert row["dice"] == pytest.approx((0.6 + 1.0) / 2)
    assert (row["dice_low"], row["dice_high"]) == pytest.approx((0.6, 1.0))
    assert row["dice_per_seed"] == pytest.approx({"0": 0.7, "1": 0.8})
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
    assert rows[1]["test"]["dice"] == 1.0
    assert rows[1]["dice"] == 0.5
    assert rows[1]["dice_per_seed"] == {"0": 0.5}


def test_only_common_cases_are_compared() -> None:
    results = {"all": [_row("easy", 1.0), _row("hard", 0.2)], "some": [_row("hard", 0.3)], "base": [_row("hard", 0.1)]}
    rows = ranking_rows(results, {"all": {}, "some": {}, "base": {"is_reference": True}})
    assert [(row["entry"], row["dice"], row["num_cases_left_out"]) for row in rows] == [
        ("some", 0.3, 0),
        ("all", 0.2, 1),
        ("base", 0.1, 0),
    ]


def test_a_reference_does_not_narrow_the_cases() -> None:
    results = {"net": [_row("a", 0.5), _row("b", 0.7)], "base": [_row("a", 0.1)]}
    rows = ranking_rows(results, {"net": {}, "base": {"is_reference": True}})
    assert rows[0]["dice"] == pytest.approx(0.6)
    assert rows[1]["num_cases"] == 1


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"one: 1 cases, two: 1 cases\); train the entries on the same folds"):
        ranking_rows({"one": [_row("a", 1)], "two": [_row("b", 1)]}, {"one": {}, "two": {}})


def test_undefined_is_null_and_last() -> None:
    rows = ranking_rows({"void": [_row("a", math.nan)], "net": [_row("a", 0.0)]}, {"void": {}, "net": {}})
    assert [row["entry"] for row in rows] == ["net", "void"]
    assert json.loads(json.dumps(rows, allow_nan=False))[1]["dice"] is None


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [_row(name, dice) for name, dice in zip("abcdef", (0.1, 0.9, 0.4, 0.6, 0.3, 0.8), strict=True)]
    (there,) = ranking_rows({"net": rows}, {"net": {}})
    (back,) = ranking_rows({"net": rows[::-1]}, {"net": {}})
    assert there == back
