"""The three cases a report shows: best, median and worst out-of-fold case of an entry."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.cases.annotation import read_case_label
from pipelines.cases.case import Case
from pipelines.cases.nifti import label_suffix, read_image, read_label
from pipelines.evaluation.case_scores import OUT_OF_FOLD
from pipelines.evaluation.ranking import case_means

CAPTIONS = ("best", "median", "worst")


@dataclass(frozen=True)
class OverlayCase:
    """A case to draw.

    Attributes:
        case_id: name of the case.
        image: (C, Z, Y, X); the first channel is drawn.
        reference: (Z, Y, X) integers.
        prediction: (Z, Y, X) integers.
        spacing_mm: (z, y, x).
        score: mean over the classes of this case, by the measure that ranks; None where there is no score.
        class_scores: that measure by class name; NaN where it is not defined.
        caption: why the case is shown, "best", "median" or "worst".
    """

    case_id: str
    image: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, float, float]
    score: float | None
    class_scores: dict[str, float]
    caption: str


def pick_cases(rows: Sequence[Mapping[str, Any]], measure: str) -> dict[str, tuple[str, float]]:
    """Case id and score by caption "best", "median", "worst"; two cases have no median, one case is only the best.

    Ties are ordered by case id. Of an even number of cases the lower of the two in the middle is the median.

    Args:
        rows: score rows of one entry, as in `pipelines.evaluation.case_scores`; only out-of-fold rows count.
        measure: key of the measure, larger is better.
    """
    means = case_means(_out_of_fold(rows), measure)
    scores = {case_id: value for case_id, value in means.items() if not math.isnan(value)}
    order = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    if len(order) < len(CAPTIONS):
        return dict(zip(("best", "worst"), order, strict=False))
    return dict(zip(CAPTIONS, (order[0], order[len(order) // 2], order[-1]), strict=True))


def read_overlays(
    rows: Sequence[Mapping[str, Any]],
    cases: Sequence[Case],
    predictions_dir: Path,
    measure: str,
) -> list[OverlayCase]:
    """Read image, reference and prediction of the cases that `pick_cases` picks.

    Args:
        rows: score rows of one entry.
        cases: the cases of the data set.
        predictions_dir: `results/D/A/predictions`; holds `<split>/<case_id>.nii.gz` or, a seed each,
            `<split>/<case_id>_seed<seed>.nii.gz`, of which the lowest seed is drawn; of pictures `.png`.
        measure: key of the measure that picks, larger is better.
    """
    by_id = {case.case_id: case for case in cases}
    overlays = []
    for caption, (case_id, score) in pick_cases(rows, measure).items():
        case = by_id[case_id]
        of_case = [row for row in _out_of_fold(rows) if row["case_id"] == case_id]
        seeds = sorted(row["seed"] for row in of_case if row["seed"] is not None)
        by_class: dict[str, list[float]] = {}
        for row in of_case:
            by_class.setdefault(row["class_name"], []).append(row[measure])
        suffix = label_suffix(case.image_paths[0])
        path = predictions_dir / OUT_OF_FOLD / f"{case_id}{suffix}"
        if not path.exists() and seeds:
            path = path.with_name(f"{case_id}_seed{seeds[0]}{suffix}")
        image = read_image(case)
        overlays.append(
            OverlayCase(
                case_id=case_id,
                image=image.array,
                reference=read_case_label(case)[0],
                prediction=read_label(path)[0],
                spacing_mm=image.spacing_mm,
                score=score,
                class_scores={name: sum(values) / len(values) for name, values in by_class.items()},
                caption=caption,
            )
        )
    return overlays


def _out_of_fold(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["split"] == OUT_OF_FOLD]
