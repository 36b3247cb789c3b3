from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest

from pipelines.cases.case import Case
from pipelines.evaluation.gallery import pick_cases, read_overlays


def row(case_id, dice, split="validation", seed=None):
    return {"case_id": case_id, "dice": dice, "split": split, "seed": seed, "class_name": "a"}


def test_best_median_and_worst():
    rows = [row(f"c{index}", index / 10) for index in range(5)]
    assert pick_cases(rows, "dice") == {"best": ("c4", 0.4), "median": ("c2", 0.2), "worst": ("c0", 0.0)}


def test_test_cases_and_cases_without_a_score_are_not_shown():
    rows = [row("a", 0.5), row("b", 0.9, split="test"), row("c", math.nan)]
    assert pick_cases(rows, "dice") == {"best": ("a", 0.5)}


@pytest.mark.parametrize(
    ("dice", "captions"),
    [([], []), ([0.1], ["best"]), ([0.1, 0.2], ["best", "worst"]), ([0.3] * 4, ["best", "median", "worst"])],
)
def test_few_cases_have_few_captions(dice, captions):
    assert list(pick_cases([row(f"c{index}", value) for index, value in enumerate(dice)], "dice")) == captions


def save(path, array_zyx):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array_zyx.transpose(2, 1, 0), np.diag([1.0, 2.0, 3.0, 1.0])).to_filename(path)
    return str(path)


@pytest.mark.parametrize(("seed", "name"), [(None, "c0.nii.gz"), (3, "c0_seed3.nii.gz")])
def test_the_files_of_a_case_are_read(tmp_path, seed, name):
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    label = (image > 10).astype(np.uint8)
    prediction = (image > 12).astype(np.uint8)
    case = Case(
        case_id="c0",
        image_paths=(save(tmp_path / "image.nii.gz", image),),
        label_path=save(tmp_path / "label.nii.gz", label),
        patient="p",
        split="train",
        fold=0,
        digest="",
        shape=(2, 3, 4),
        spacing_mm=(3.0, 2.0, 1.0),
        affine=tuple(np.diag([1.0, 2.0, 3.0, 1.0]).ravel()),
    )
    save(tmp_path / "predictions" / "validation" / name, prediction)
    (overlay,) = read_overlays([row("c0", 0.8, seed=seed)], [case], tmp_path / "predictions", "dice")
    np.testing.assert_array_equal(overlay.image, image[None])
    np.testing.assert_array_equal(overlay.reference, label)
    np.testing.assert_array_equal(overlay.prediction, prediction)
    assert overlay.spacing_mm == (3.0, 2.0, 1.0)
    assert (overlay.caption, overlay.score, overlay.class_scores) == ("best", 0.8, {"a": 0.8})
