"""What intensity alone can tell: the reference row that every network of a comparison should beat.

A naive Bayes classifier of single voxels. Each channel is clipped to the case's own 0.5 and 99.5 percentiles,
brought to zero mean and unit deviation, and cut into 128 bins of equal width over -4 .. 4 (values beyond fall into
the outer bins). Counts of bins for each class give p(bin | class), smoothed by one voxel a bin, and p(class); a
voxel gets the class with the largest posterior, channels being taken as independent. With one channel that is the
exact posterior of the histogram.

The counts of a case do not depend on other cases, so each image is read twice in all and the classifier of a fold is
a sum over the other folds' counts: no case sees itself. Voxels with the ignore label are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cases.case import Case
from pipelines.evaluation.case_scores import OUT_OF_FOLD, TEST, score_case

ENTRY = "intensity_classifier"
NUM_BINS = 128
_LARGEST_DEVIATION = 4.0
_CLIPPED_PERCENTILES = (0.5, 99.5)

_Job = tuple[Case, int | None, str, NDArray[np.float64]]


def intensity_classifier_rows(
    cases: Sequence[Case],
    labels: Mapping[str, int],
    folds: Sequence[int],
    tolerance_mm: float,
    ignore_label: int | None = None,
) -> list[dict[str, Any]]:
    """Fit, predict and score, as an entry of the comparison would be.

    Args:
        cases: all cases of the data set; those without a label are left out.
        labels: class name to label value, background 0 included.
        folds: folds whose cases are predicted out of fold, each fitted on the training cases of all other folds.
        tolerance_mm: tolerance of the normalised surface Dice.
        ignore_label: value of voxels that are neither counted nor scored.

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
    classifiers = {
        fold: fit([array for case, array in zip(training, counts, strict=True) if case.fold != fold]) for fold in folds
    }
    jobs: list[_Job] = []
    for case in training:
        if case.fold in classifiers:
            jobs.append((case, case.fold, OUT_OF_FOLD, classifiers[case.fold]))
    if test:
        of_all = fit(counts)
        jobs += [(case, None, TEST, of_all) for case in test]
    score = partial(_score_case, labels=dict(labels), tolerance_mm=tolerance_mm, ignore_label=ignore_label)
    return [row for rows in map_cases(score, jobs, "score intensity classifier") for row in rows]


def bin_intensities(image: NDArray[np.float32]) -> NDArray[np.int64]:
    """Bin of each voxel, 0 .. NUM_BINS - 1, channel by channel; `image` and the result are (C, Z, Y, X)."""
    bins = np.empty(image.shape, dtype=np.int64)
    for channel, values in enumerate(image):
        clipped = np.clip(values, *np.percentile(values, _CLIPPED_PERCENTILES)).astype(np.float64)
        scores = (clipped - clipped.mean()) / max(clipped.std(), 1e-8)
        position = (scores / _LARGEST_DEVIATION + 1) / 2 * NUM_BINS
        bins[channel] = np.clip(np.floor(position), 0, NUM_BINS - 1)
    return bins


def count_bins(
    bins: NDArray[np.int64], label: NDArray, num_classes: int, ignore_label: int | None = None
) -> NDArray[np.int64]:
    """Count voxels by class, channel and bin.

    Args:
        bins: (C, Z, Y, X), from `bin_intensities`.
        label: (Z, Y, X) label map.
        num_classes: K, background included.
        ignore_label: value of voxels that are not counted.

    Returns:
        (K, C, NUM_BINS).
    """
    is_counted = label != ignore_label if ignore_label is not None else np.ones(label.shape, dtype=bool)
    classes = label[is_counted].astype(np.int64)
    counts = [
        np.bincount(classes * NUM_BINS + channel[is_counted], minlength=num_classes * NUM_BINS) for channel in bins
    ]
    return np.stack([count.reshape(num_classes, NUM_BINS) for count in counts], axis=1)


def fit(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Log posterior parts from the counts of the training cases, each (K, C, NUM_BINS).

    Returns:
        (K, C, NUM_BINS): log p(bin | class), with log p(class) added to the first channel, so that the sum over
        channels is the log posterior up to a constant.

    Raises:
        ValueError: there is no training case.
    """
    if not counts:
        raise ValueError("no labelled training case outside the fold; use at least two folds that hold cases")
    total = np.sum(counts, axis=0).astype(np.float64)
    voxels = total.sum(axis=2, keepdims=True)
    log_posterior = np.log((total + 1) / (voxels + NUM_BINS))
    # A class that no training voxel has gets prior 0, hence -inf, and is never chosen.
    with np.errstate(divide="ignore"):
        log_posterior[:, 0] += np.log(voxels[:, 0] / voxels[:, 0].sum())
    return log_posterior


def predict(bins: NDArray[np.int64], log_posterior: NDArray[np.float64]) -> NDArray[np.int16]:
    """Most probable class of each voxel, (Z, Y, X), from bins (C, Z, Y, X); the lower class in a tie."""
    best = np.full(bins.shape[1:], -np.inf)
    label = np.zeros(bins.shape[1:], dtype=np.int16)
    for value, tables in enumerate(log_posterior):
        score = sum(table[channel] for table, channel in zip(tables, bins, strict=True))
        is_better = score > best
        best[is_better] = score[is_better]
        label[is_better] = value
    return label


def _count_case(case: Case, num_classes: int, ignore_label: int | None) -> NDArray[np.int64]:
    from pipelines.cases.nifti import read_image, read_label

    assert case.label_path is not None
    label, _ = read_label(case.label_path)
    return count_bins(bin_intensities(read_image(case).array), label, num_classes, ignore_label)


def _score_case(
    job: _Job,
    labels: dict[str, int],
    tolerance_mm: float,
    ignore_label: int | None,
) -> list[dict[str, Any]]:
    from pipelines.cases.nifti import read_image, read_label

    case, fold, split, log_posterior = job
    assert case.label_path is not None
    reference, spacing_mm = read_label(case.label_path)
    prediction = predict(bin_intensities(read_image(case).array), log_posterior)
    origin = {"case_id": case.case_id, "patient": case.patient, "split": split, "fold": fold, "seed": None}
    scores = score_case(prediction, reference, labels, spacing_mm, tolerance_mm, ignore_label)
    return [origin | row for row in scores]
