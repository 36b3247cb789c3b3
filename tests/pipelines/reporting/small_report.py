"""Reports of four made-up cases, for tests of what they say and how they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.evaluation.gallery import OverlayCase
from pipelines.evaluation.measures import DatasetFacts, Measure
from pipelines.evaluation.ranking import ranking_rows
from pipelines.reporting.comparison import Comparison
from pipelines.reporting.report import write_report
from pipelines.tasks import segmentation

SEGMENTATION = Comparison.of_task(segmentation)
GRAPH = Comparison(
    (Measure("accuracy", "accuracy"),), "test", "features", "no graph", "node", ("val_accuracy", "Accuracy")
)
FACTS = DatasetFacts("organs <1>", {"background": 0, "liver": 1, "tumour": 2}, ["CT"])


def score(case_id, class_name, dice, split="validation", patient=None):
    return {
        "case_id": case_id,
        "patient": patient or case_id,
        "class_name": class_name,
        "split": split,
        "fold": 0,
        "seed": 0,
        "dice": dice,
        "iou": dice,
        "hd95_mm": 3.0,
        "assd_mm": 1.0,
        "nsd": dice,
    }


def scores(level, with_test=False):
    rows = [score(f"c{case}", name, level + case / 100) for case in range(4) for name in ("liver", "tumour")]
    return rows + ([score("t0", "liver", level, split="test")] if with_test else [])


def history(num_epochs, with_validation=True):
    return [
        {"epoch": epoch, "step": 10 * (epoch + 1), "train_loss": 1 / (epoch + 1)}
        | ({"val_pseudo_dice": 0.5} if with_validation else {})
        for epoch in range(num_epochs)
    ]


def overlay_case(caption):
    label = np.zeros((6, 8, 10), dtype=np.uint8)
    label[2:4, 2:5, 3:6] = 1
    return OverlayCase(
        "c1", np.ones((1, 6, 8, 10), np.float32), label, label, (3.0, 1.0, 1.0), 0.8, {"liver": 0.8}, caption
    )


def write_small_report(out_dir: Path, entry_scores, comparison=SEGMENTATION, **more: Any) -> None:
    """Write a report; the entry "intensity" is its yardstick, `more` replaces what there is nothing of."""
    info = {entry: info_of(entry) for entry in entry_scores}
    arguments = {
        "comparison": comparison,
        "dataset": FACTS,
        "fingerprint": [],
        "ranking": ranking_rows(entry_scores, info, comparison.measures, comparison.ranked_split, 50)
        if entry_scores
        else [],
        "scores": entry_scores,
        "histories": {},
        "overlays": [],
        "plans": {},
        "searches": {},
        "settings": "",
        "provenance": {},
        "command": "dvc repro",
    }
    write_report(out_dir, **(arguments | more))


def info_of(entry):
    if entry == "intensity":
        return {"is_reference": True}
    # Short names have few parameters: an order of its own to sort by.
    return {"is_reference": False, "num_parameters": 1000 * len(entry), "train_seconds": 60.0, "tuning": None}
