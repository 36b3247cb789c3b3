from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.case_scores import OUT_OF_FOLD, read_scores, score_case, write_scores
from pipelines.evaluation.case_scores import TEST as TEST_SPLIT

LABELS = {"background": 0, "tumour": 2, "organ": 1}


def _maps() -> tuple[np.ndarray, np.ndarray]:
    reference, prediction = np.zeros((2, 3, 4, 12), dtype=np.int16)
    reference[1, 1, 2:6] = 1
    prediction[1, 1, 4:8] = 1
    return prediction, reference


def test_rows_by_hand() -> None:
    organ, tumour = score_case(*_maps(), LABELS, (5.0, 1.0, 2.0), tolerance_mm=2)
    # Surface voxels lie 2 mm apart; two of each mask are off, by one and two steps.
    assert organ == {
        "class_name": "organ",
        "dice": 0.5,
        "iou": pytest.approx(1 / 3),
        "hd95_mm": pytest.approx(np.percentile([0, 0, 2, 4], 95)),
        "assd_mm": pytest.approx(12 / 8),
        "nsd": pytest.approx(6 / 8),
        "reference_voxels": 4,
        "predicted_voxels": 4,
    }
    assert tumour["class_name"] == "tumour"
    assert all(math.isnan(tumour[measure]) for measure in ("dice", "iou", "hd95_mm", "assd_mm", "nsd"))
    assert tumour["reference_voxels"] == tumour["predicted_voxels"] == 0


def test_a_single_slice_is_scored_in_its_plane() -> None:
    square, smaller = np.zeros((2, 1, 9, 9), dtype=np.int16)
    square[0, 2:7, 2:7] = 1
    smaller[0, 3:6, 3:6] = 1
    # In space all of a slice is surface, and the inner square lies on it.
    (row,) = score_case(smaller, square, {"background": 0, "square": 1}, (1.0, 1.0, 1.0), 0.5)
    assert (row["hd95_mm"], row["nsd"]) == (pytest.approx(2**0.5), 0)


def test_declared_measures_stand_in_the_rows_and_in_the_file(tmp_path: Path) -> None:
    prediction, reference = _maps()
    declared = ("sensitivity", "auc")
    probabilities = np.where(prediction == 1, 9, 3)[np.newaxis].repeat(3, axis=0).astype(np.uint16)
    rows = score_case(prediction, reference, LABELS, (1, 1, 1), 1, declared=declared, probabilities=probabilities)
    assert rows[0]["sensitivity"] == 0.5
    # Of 140 other voxels 2 have the high value, 138 the low one; of the class 2 have either.
    assert rows[0]["auc"] == pytest.approx(0.5 * (138 + 2 / 2) / 140 + 0.5 * (138 / 2) / 140)
    origin = {"case_id": "c1", "patient": "p1", "split": OUT_OF_FOLD, "fold": 2, "seed": 0, "fallback": None}
    write_scores(tmp_path / "cases.parquet", [origin | row for row in rows], declared)
    stored = read_scores(tmp_path / "cases.parquet")
    assert [row["auc"] for row in stored] == pytest.approx([row["auc"] for row in rows], nan_ok=True)


def test_a_missed_class_costs_the_diagonal() -> None:
    prediction, reference = _maps()
    organ, _ = score_case(np.zeros_like(prediction), reference, LABELS, (1, 1, 1), 1)
    assert organ["dice"] == organ["iou"] == organ["nsd"] == 0
    assert organ["hd95_mm"] == organ["assd_mm"] == pytest.approx(13)


def test_voxels_with_the_ignore_label_are_left_out() -> None:
    prediction, reference = _maps()
    reference[1, 1, 6:8] = 3
    organ, _ = score_case(prediction, reference, LABELS | {"ignore": 3}, (1, 1, 1), 1, ignore_label=3)
    assert (organ["reference_voxels"], organ["predicted_voxels"]) == (4, 2)
    assert organ["dice"] == pytest.approx(4 / 6)


def test_shapes_must_agree() -> None:
    prediction, reference = _maps()
    with pytest.raises(ValueError, match="predict the case again"):
        score_case(prediction[1:], reference, LABELS, (1, 1, 1), 1)


@pytest.mark.parametrize("value", [3, -1])
def test_an_undeclared_value_is_named(value: int) -> None:
    prediction, reference = _maps()
    reference[0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"reference holds .*{value}.*labels are 0 to 2"):
        score_case(prediction, reference, LABELS, (1, 1, 1), 1)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    scores = score_case(*_maps(), LABELS, (1, 1, 1), 1)
    origin = {"case_id": "c1", "patient": "p1", "split": OUT_OF_FOLD, "fold": 2, "seed": 0, "fallback": None}
    ensemble = {
        "case_id": "c2",
        "patient": "p2",
        "split": TEST_SPLIT,
        "fold": None,
        "seed": None,
        "fallback": "1 patch",
    }
    rows = [origin | row for row in scores] + [ensemble | scores[0]]
    write_scores(tmp_path / "cases.parquet", rows)
    stored = read_scores(tmp_path / "cases.parquet")
    assert len(stored) == 3
    for row, expected in zip(stored, rows, strict=True):
        assert row == pytest.approx(expected, nan_ok=True)
