"""What intensity alone can tell: the reference row that every network of a comparison should beat.

A classifier of single voxels by a histogram. A channel is clipped to the case's own 0.5 and 99.5 percentiles,
brought to zero mean and unit deviation, and cut into bins of equal width over -4 .. 4 (values beyond fall into the
outer bins). One channel has 128 bins; of two channels or more the first two share a joint histogram of 64 x 64.
Counts of the cells in each class give p(cell | class), smoothed by one voxel a cell, and p(class); a cell gets the
class with the largest p(cell | class) p(class)^weight.

The weight is the one of 0, 1/4, 1/2, 3/4, 1 with the best mean foreground Dice over the training voxels. Weight 1 is
the plain posterior, which never chooses a small structure that overlaps with the background: a yardstick of 0 would
tell nothing.

The counts of a case do not depend on other cases, so an image is read twice in all and the classifier of a fold is a
sum over the other folds' counts: no case sees itself. Voxels with the ignore label are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cases.case import Case
from pipelines.evaluation.case_scores import OUT_OF_FOLD, TEST, score_case
from pipelines.evaluation.declared_measures import needs_probabilities
from pipelines.metrics.discrimination import in_16_bits
from pipelines.metrics.overlap import dice

_BINS_PER_CHANNEL = (128, 64)  # alone, and in a pair
# From the largest on: where the Dice is the same, the plain posterior stays.
_PRIOR_WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)
_LARGEST_DEVIATION = 4.0
_CLIPPED_PERCENTILES = (0.5, 99.5)

# The class of every cell, and where it is asked for its probability of every class.
_Tables = tuple[NDArray[np.int16], NDArray[np.uint16] | None]
_Job = tuple[Case, int | None, str, _Tables]


def intensity_classifier_rows(
    cases: Sequence[Case],
    labels: Mapping[str, int],
    folds: Sequence[int],
    tolerance_mm: float,
    ignore_label: int | None = None,
    declared: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Fit, predict and score, as an entry of the comparison would be.

    Args:
        cases: all cases of the data set; those without a label are left out.
        labels: class name to label value, background 0 included.
        folds: folds whose cases are predicted out of fold, each fitted on the training cases of all other folds.
        tolerance_mm: tolerance of the normalised surface Dice.
        ignore_label: value of voxels that are neither counted nor scored.
        declared: measures that the data set declares.

    Returns:
        Score rows with the keys of `pipelines.evaluation.case_scores`: split "validation" with `fold`, and split
        "test" (fitted on all training cases) with fold None; seed None.
    """
    from pipelines.ray_session.map_cases import map_cases

    num_classes = 1 + max(value for value in labels.values() if value != ignore_label)
    training = [case for case in cases if case.split == "train" and case.label_path is not None]
    test = [case for case in cases if case.split == "test" and case.label_path is not None]
    count = partial(_count_case, num_classes=num_classes, ignore_label=ignore_label)
    counts = map_cases(count, training, "count intensities")
    tables = partial(_tables, has_probabilities=needs_probabilities(declared))
    classifiers = {
        fold: tables([array for case, array in zip(training, counts, strict=True) if case.fold != fold])
        for fold in folds
    }
    jobs: list[_Job] = []
    for case in training:
        if case.fold in classifiers:
            jobs.append((case, case.fold, OUT_OF_FOLD, classifiers[case.fold]))
    if test:
        of_all = tables(counts)
        jobs += [(case, None, TEST, of_all) for case in test]
    score = partial(
        _score_case,
        labels=dict(labels),
        tolerance_mm=tolerance_mm,
        ignore_label=ignore_label,
        declared=tuple(declared),
    )
    return [row for rows in map_cases(score, jobs, "score intensity classifier") for row in rows]


def intensity_cells(image: NDArray[np.float32]) -> NDArray[np.int64]:
    """Histogram cell of each voxel, (Z, Y, X), from an image (C, Z, Y, X): below 128, or 4096 with several channels."""
    num_bins = _BINS_PER_CHANNEL[0] if len(image) == 1 else _BINS_PER_CHANNEL[1]
    cells = np.zeros(image.shape[1:], dtype=np.int64)
    for values in image[:2]:
        clipped = np.clip(values, *np.percentile(values, _CLIPPED_PERCENTILES)).astype(np.float64)
        scores = (clipped - clipped.mean()) / max(clipped.std(), 1e-8)
        position = (scores / _LARGEST_DEVIATION + 1) / 2 * num_bins
        cells = cells * num_bins + np.clip(np.floor(position), 0, num_bins - 1).astype(np.int64)
    return cells


def count_cells(
    cells: NDArray[np.int64], label: NDArray, num_cells: int, num_classes: int, ignore_label: int | None = None
) -> NDArray[np.int64]:
    """Count voxels by class and cell.

    Args:
        cells: (Z, Y, X), from `intensity_cells`.
        label: (Z, Y, X) label map.
        num_cells: cells of the histogram.
        num_classes: K, background included.
        ignore_label: value of voxels that are not counted.

    Returns:
        (K, num_cells).
    """
    is_counted = label != ignore_label if ignore_label is not None else np.ones(label.shape, dtype=bool)
    pairs = label[is_counted].astype(np.int64) * num_cells + cells[is_counted]
    return np.bincount(pairs, minlength=num_classes * num_cells).reshape(num_classes, num_cells)


def fit(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int16]:
    """Class of every cell, (num_cells,), from the counts (K, num_cells) of each training case.

    Raises:
        ValueError: there is no training case.
    """
    if not counts:
        raise ValueError("no labelled training case outside the fold; use at least two folds that hold cases")
    total = np.sum(counts, axis=0)
    tables = [_evidence(total, weight).argmax(axis=0) for weight in _PRIOR_WEIGHTS]
    return max(tables, key=lambda table: _foreground_dice(table, total)).astype(np.int16)


def cell_probabilities(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Probability of each class in every cell, (K, num_cells), by the plain posterior; arguments as of `fit`."""
    evidence = _evidence(np.sum(counts, axis=0), 1.0)
    likelihood = np.exp(evidence - evidence.max(axis=0))
    shares: NDArray[np.float64] = likelihood / likelihood.sum(axis=0)
    return shares


def _evidence(total: NDArray[np.int64], weight: float) -> NDArray[np.float64]:
    """Logarithm of p(cell | class) p(class)^weight, (K, num_cells)."""
    voxels = total.sum(axis=1, keepdims=True)
    likelihood = np.log((total + 1) / (voxels + total.shape[1]))
    prior = np.log(np.maximum(voxels, 1) / voxels.sum())
    # A class that no training voxel has is never chosen.
    evidence: NDArray[np.float64] = np.where(voxels > 0, likelihood + weight * prior, -np.inf)
    return evidence


def _tables(counts: Sequence[NDArray[np.int64]], has_probabilities: bool) -> _Tables:
    return fit(counts), in_16_bits(cell_probabilities(counts)) if has_probabilities else None


def _foreground_dice(table: NDArray[np.int64], counts: NDArray[np.int64]) -> float:
    """Sum of the foreground classes' Dice on the counted voxels (K, num_cells); an absent class adds nothing."""
    scores = []
    for value in range(1, len(counts)):
        is_chosen = table == value
        hits = counts[value, is_chosen].sum()
        scores.append(dice(hits, counts[:, is_chosen].sum() - hits, counts[value].sum() - hits))
    return float(np.nansum(scores))


def _count_case(case: Case, num_classes: int, ignore_label: int | None) -> NDArray[np.int64]:
    from pipelines.cases.annotation import read_case_label
    from pipelines.cases.nifti import read_image

    image = read_image(case).array
    label, _ = read_case_label(case)
    num_cells = _BINS_PER_CHANNEL[0] if len(image) == 1 else _BINS_PER_CHANNEL[1] ** 2
    return count_cells(intensity_cells(image), label, num_cells, num_classes, ignore_label)


def _score_case(
    job: _Job,
    labels: dict[str, int],
    tolerance_mm: float,
    ignore_label: int | None,
    declared: Sequence[str],
) -> list[dict[str, Any]]:
    from pipelines.cases.annotation import read_case_label, read_case_objects
    from pipelines.cases.nifti import read_image

    case, fold, split, (table, table_of_probabilities) = job
    reference, spacing_mm = read_case_label(case)
    cells = intensity_cells(read_image(case).array)
    probabilities = None if table_of_probabilities is None else table_of_probabilities[:, cells]
    objects = read_case_objects(case) if declared else None
    origin = {"case_id": case.case_id, "patient": case.patient, "split": split, "fold": fold, "seed": None}
    scores = score_case(
        table[cells], reference, labels, spacing_mm, tolerance_mm, ignore_label, declared, objects, probabilities
    )
    return [origin | row for row in scores]
