from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.cases.case import Case
from pipelines.evaluation.intensity_classifier import (
    NUM_BINS,
    bin_intensities,
    count_bins,
    fit,
    intensity_classifier_rows,
    predict,
)

LABELS = {"background": 0, "bright": 1}


def test_bins_do_not_depend_on_scale_and_offset() -> None:
    image = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float32)
    there, back = bin_intensities(image), bin_intensities(image * 300 + 70)
    assert (there != back).mean() < 0.01
    assert there.min() >= 0
    assert there.max() < NUM_BINS


def test_a_constant_image_has_one_bin() -> None:
    assert len(np.unique(bin_intensities(np.full((1, 2, 2, 2), 7, np.float32)))) == 1


def test_a_hot_voxel_does_not_squeeze_the_rest() -> None:
    image = np.random.default_rng(0).normal(size=(1, 10, 10, 10)).astype(np.float32)
    hot = image.copy()
    hot[0, 0, 0, 0] = 1e6
    rest = bin_intensities(hot)[0, 1:]
    assert np.abs(rest - bin_intensities(image)[0, 1:]).max() <= 1


def test_counts_and_posterior_by_hand() -> None:
    bins = np.array([3, 3, 3, 5]).reshape(1, 1, 1, 4)
    label = np.array([0, 0, 1, 1]).reshape(1, 1, 4)
    counts = count_bins(bins, label, 2)
    assert counts.shape == (2, 1, NUM_BINS)
    assert counts.sum() == 4
    assert (counts[0, 0, 3], counts[1, 0, 3], counts[1, 0, 5]) == (2, 1, 1)
    assert predict(bins, fit([counts])).tolist() == [[[0, 0, 0, 1]]]
    log_posterior = fit([counts, counts])
    assert log_posterior[0, 0, 3] == pytest.approx(np.log(5 / (4 + NUM_BINS)) + np.log(0.5))


def test_channels_add_their_evidence() -> None:
    bins = np.array([[3, 3], [7, 9]]).reshape(2, 1, 1, 2)
    counts = count_bins(bins, np.array([0, 1]).reshape(1, 1, 2), 2)
    assert predict(bins, fit([counts])).ravel().tolist() == [0, 1]


def test_ignored_voxels_are_not_counted() -> None:
    bins = np.full((1, 1, 1, 3), 2)
    assert count_bins(bins, np.array([0, 2, 1]).reshape(1, 1, 3), 2, ignore_label=2).sum() == 2


def test_a_class_never_seen_is_never_chosen() -> None:
    bins = np.arange(4).reshape(1, 1, 1, 4)
    counts = count_bins(bins, np.zeros((1, 1, 4), int), 3)
    assert not predict(np.arange(NUM_BINS).reshape(1, 1, 1, -1), fit([counts])).any()


def test_nothing_to_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least two folds"):
        fit([])


def _case(folder: Path, number: int, split: str, fold: int | None, has_bright_label: bool = True) -> Case:
    rng = np.random.default_rng(number)
    label = np.zeros((6, 8, 10), np.uint8)
    label[2:4, 2:6, 3:8] = 1
    image = rng.normal(0, 0.1, label.shape) + 3.0 * label
    if not has_bright_label:
        image = -image
    paths = []
    for name, array in (("image", image.astype(np.float32)), ("label", label)):
        paths.append(str(folder / f"{number}_{name}.nii.gz"))
        nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), np.eye(4)), paths[-1])
    return Case(
        case_id=f"c{number}",
        image_paths=(paths[0],),
        label_path=paths[1],
        patient=f"p{number}",
        split=split,
        fold=fold,
        digest="",
        shape=(6, 8, 10),
        spacing_mm=(1.0, 1.0, 1.0),
        affine=tuple(np.eye(4).ravel()),
    )


def test_separable_cases_are_predicted_out_of_fold_and_for_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run_in_process(monkeypatch)
    cases = [_case(tmp_path, number, "train", number % 2) for number in range(4)]
    cases.append(_case(tmp_path, 9, "test", None))
    rows = intensity_classifier_rows(cases, LABELS, folds=(0, 1), tolerance_mm=1)
    assert [(row["case_id"], row["split"], row["fold"], row["class_name"]) for row in rows] == [
        ("c0", "validation", 0, "bright"),
        ("c1", "validation", 1, "bright"),
        ("c2", "validation", 0, "bright"),
        ("c3", "validation", 1, "bright"),
        ("c9", "test", None, "bright"),
    ]
    assert min(row["dice"] for row in rows) > 0.95


def test_no_case_sees_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run_in_process(monkeypatch)
    cases = [_case(tmp_path, 0, "train", 0, has_bright_label=False), _case(tmp_path, 1, "train", 1)]
    rows = intensity_classifier_rows(cases, LABELS, folds=(0,), tolerance_mm=1)
    assert [(row["case_id"], row["dice"]) for row in rows] == [("c0", 0.0)]


def _run_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipelines.ray_session.map_cases.map_cases",
        lambda function, items, desc, unit="case": [function(item) for item in items],
    )
