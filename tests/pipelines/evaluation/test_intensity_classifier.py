from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.cases.case import Case
from pipelines.evaluation.intensity_classifier import (
    cell_probabilities,
    count_cells,
    fit,
    intensity_cells,
    intensity_classifier_rows,
)

LABELS = {"background": 0, "bright": 1}


def _noise(channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, 10, 10, 10)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2])
def test_cells_do_not_depend_on_scale_and_offset(channels: int) -> None:
    image = _noise(channels)
    assert (intensity_cells(image) != intensity_cells(image * 300 + 70)).mean() < 0.01


@pytest.mark.parametrize(("channels", "num_cells"), [(1, 128), (2, 4096)])
def test_cells_spread_over_the_histogram(channels: int, num_cells: int) -> None:
    cells = intensity_cells(_noise(channels))
    assert cells.min() >= 0
    assert num_cells / 2 < cells.max() < num_cells


def test_a_third_channel_is_left_out() -> None:
    image = _noise(3)
    np.testing.assert_array_equal(intensity_cells(image), intensity_cells(image[:2]))


def test_a_constant_image_has_one_cell() -> None:
    assert len(np.unique(intensity_cells(np.full((1, 2, 2, 2), 7, np.float32)))) == 1


def test_a_hot_voxel_does_not_squeeze_the_rest() -> None:
    image = _noise(1)
    hot = image.copy()
    hot[0, 0, 0, 0] = 1e6
    assert np.abs(intensity_cells(hot)[1:] - intensity_cells(image)[1:]).max() <= 1


def test_probabilities_of_a_cell_are_the_smoothed_share_of_each_class() -> None:
    counts = np.array([[7, 1, 0], [1, 1, 2], [0, 0, 0]])
    probabilities = cell_probabilities([counts - 1 * (counts > 0), 1 * (counts > 0)])
    # p(cell | class) p(class): 8/11 * 8/12 against 2/7 * 4/12, and so on; a class without voxels is never likely.
    joint = np.array([[8 / 11 * 8, 2 / 11 * 8, 1 / 11 * 8], [2 / 7 * 4, 2 / 7 * 4, 3 / 7 * 4], [0, 0, 0]])
    np.testing.assert_allclose(probabilities, joint / joint.sum(axis=0))


def test_counts_by_hand() -> None:
    counts = count_cells(np.array([[[3, 3, 3, 5]]]), np.array([[[0, 0, 1, 1]]]), num_cells=6, num_classes=2)
    assert counts.tolist() == [[0, 0, 0, 2, 0, 0], [0, 0, 0, 1, 0, 1]]


def test_ignored_voxels_are_not_counted() -> None:
    cells, label = np.full((1, 1, 3), 2), np.array([[[0, 2, 1]]])
    assert count_cells(cells, label, 4, 2, ignore_label=2).tolist() == [[0, 0, 1, 0], [0, 0, 1, 0]]


def test_a_cell_gets_its_most_frequent_class() -> None:
    assert fit([np.array([[90, 5, 0], [0, 40, 3], [0, 0, 50]])]).tolist() == [0, 1, 2]


def test_counts_of_cases_add_up() -> None:
    one, other = np.array([[50, 0], [0, 9]]), np.array([[0, 2], [90, 0]])
    assert fit([one]).tolist() == [0, 1]
    assert fit([one, other]).tolist() == [1, 1]


def test_a_rare_class_inside_the_background_is_still_chosen() -> None:
    # The plain posterior would call every cell background and score 0.
    assert fit([np.array([[9000, 1000], [10, 900]])]).tolist() == [0, 1]


def test_a_class_never_seen_is_never_chosen() -> None:
    assert fit([np.array([[5, 0, 0], [0, 0, 0], [0, 5, 0]])]).tolist()[:2] == [0, 2]
    assert not fit([np.array([[5, 0], [0, 0]])]).any()


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
