from __future__ import annotations

import gzip
import hashlib

import nibabel as nib
import numpy as np
import pytest

from pipelines.cases.sources.embedded_cohort import GROUPS, LABELS, Template, case_id, load_template, make_case
from pipelines.cases.splits import assign_folds

TRAINING = [(number, group) for group in GROUPS for number in group.training]


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template()


@pytest.fixture(scope="module")
def made(template: Template) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    cases = {}
    for group in GROUPS:
        image, label = make_case(group.training[0], group, template.at_spacing(group.spacing_mm))
        cases[group.training[0]] = (np.asarray(image.dataobj), np.asarray(label.dataobj))
    return cases


def test_24_training_and_8_test_cases_of_three_spacings() -> None:
    assert len({number for number, _ in TRAINING}) == 24
    assert len({number for group in GROUPS for number in group.test}) == 8
    assert len({group.spacing_mm for group in GROUPS}) == 3
    assert max(max(group.spacing_mm) / min(group.spacing_mm) for group in GROUPS) > 3
    assert not {number for number, _ in TRAINING} & {number for group in GROUPS for number in group.test}


def test_two_folds_are_of_one_size_and_hold_every_spacing() -> None:
    folds = assign_folds([case_id(number) for number, _ in TRAINING], 2)
    assert sorted(folds.values()) == [0] * 12 + [1] * 12
    for group in GROUPS:
        assert sorted(folds[case_id(number)] for number in group.training) == [0] * 4 + [1] * 4


def test_a_case_is_made_again_byte_for_byte(template: Template) -> None:
    group = GROUPS[2]
    seen = template.at_spacing(group.spacing_mm)
    first, second = (
        [gzip.compress(image.to_bytes(), mtime=0) for image in make_case(5, group, seen)] for _ in range(2)
    )
    assert first == second
    other = make_case(6, group, seen)[0].to_bytes()
    assert hashlib.sha256(other).digest() != hashlib.sha256(gzip.decompress(first[0])).digest()


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: str(group.spacing_mm))
def test_the_grid_is_that_of_the_group(template: Template, group: object) -> None:
    assert isinstance(group, type(GROUPS[0]))
    image, label = make_case(group.training[0], group, template)
    assert image.shape == label.shape == group.shape
    assert image.header.get_zooms() == group.spacing_mm
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.get_data_dtype() == np.int16
    assert label.get_data_dtype() == np.uint8


def test_every_class_occurs_and_the_sides_balance(made: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
    for _, label in made.values():
        share = np.bincount(label.ravel(), minlength=len(LABELS)) / label.size
        assert len(share) == len(LABELS)
        assert 0.5 < share[0] < 0.8
        assert share[1] > 0.004
        assert share[2] == pytest.approx(share[3], rel=0.25)
        assert share[4] > 0.05


def test_left_is_left(made: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
    # The first axis runs to the right.
    for _, label in made.values():
        left, right = ((label == LABELS[name]).nonzero()[0] for name in ("left_grey_matter", "right_grey_matter"))
        assert left.mean() < label.shape[0] / 2 - 5
        assert right.mean() > label.shape[0] / 2 + 5


def test_tissues_differ_on_average_but_overlap(made: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
    for image, label in made.values():
        grey, white = image[(label == 2) | (label == 3)], image[label == 4]
        assert white.mean() > grey.mean() > image[label == 0].mean()
        # Were they apart, no grey voxel would be brighter than a quarter of the white ones.
        assert (grey > np.percentile(white, 25)).mean() > 0.05
