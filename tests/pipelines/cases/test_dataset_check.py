"""Eight cases that resemble each other, and one thing changed at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry
from pipelines.cases.collect import open_source
from pipelines.cases.finding import Finding
from pipelines.cases.integrity import check

CHAOS = Path(__file__).parents[3] / "../shared/data/chaos_t2_mr"
SIDE = 16
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


class Cohort:
    """Arrays in the axes of the files (x, y, z), written when they are checked."""

    def __init__(self, folder: Path, num_cases: int) -> None:
        self.folder = folder
        self.info = DatasetInfo("cohort", ("MRI",), {"background": 0, "near": 1, "big": 2, "far": 3})
        self.affines = [AFFINE] * num_cases
        self.images = [
            np.random.default_rng(seed).normal(100 + seed, 10, (SIDE,) * 3).astype(np.float32)
            for seed in range(num_cases)
        ]
        self.labels = [np.zeros((SIDE,) * 3, np.uint8) for _ in range(num_cases)]
        for seed, label in enumerate(self.labels):
            label[1:5, 2:6, 2 : 6 + seed % 4] = 1
            label[6:10, 2:12, 4 : 10 + seed % 5] = 2
            label[11:15, 2:6, 2 : 6 + seed % 3] = 3

    def findings(self) -> list[Finding]:
        entries = []
        for number, (image, label, affine) in enumerate(zip(self.images, self.labels, self.affines, strict=True)):
            for part, array in (("image", image), ("label", label)):
                nib.Nifti1Image(array, affine).to_filename(self.file(part, number))
            paths = (self.file("image", number),)
            entries.append(RawEntry(f"c{number}", paths, self.file("label", number), None, "train", None))
        return check(RawDataset(self.info, entries))

    def file(self, part: str, number: int) -> str:
        return str(self.folder / f"{part}_{number}.nii.gz")


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path, 8)


def facts(finding: Finding) -> tuple[str, str, str]:
    return finding.severity, finding.kind, finding.case_id


def flipped(array: np.ndarray) -> np.ndarray:
    return array[::-1].copy()


FLIPPED = np.array([[-1.0, 0, 0, SIDE - 1], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])


def test_cases_that_resemble_each_other_give_no_finding(cohort: Cohort) -> None:
    assert cohort.findings() == []


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f8"])
def test_labels_are_measured_in_whatever_type_they_are_stored(cohort: Cohort, dtype: str) -> None:
    cohort.labels[2][14, 14, 13:15] = 2
    cohort.labels = [label.astype(dtype) for label in cohort.labels]
    assert [finding.kind for finding in cohort.findings()] == ["specks"]


def test_a_case_with_other_axes_is_named_against_the_majority(cohort: Cohort) -> None:
    cohort.affines[3] = FLIPPED
    (finding,) = cohort.findings()
    assert facts(finding) == ("warning", "orientation", "c3")
    assert finding.files == (cohort.file("image", 3),)
    assert finding.message == "its axes run LAS, in 7 of 8 cases they run RAS"
    assert "look at one in a viewer" in finding.remedy


def test_axes_without_a_majority_are_one_warning(cohort: Cohort) -> None:
    cohort.affines = [FLIPPED, AFFINE] * 4
    (finding,) = cohort.findings()
    assert facts(finding) == ("warning", "orientation", "")
    assert finding.message == "the axes run in 2 ways: LAS in 4, RAS in 4 cases"


def test_a_class_in_far_more_pieces_than_usual_is_a_warning(cohort: Cohort) -> None:
    cohort.labels[2][1:14:3, 14, 14] = 2
    (finding,) = cohort.findings()
    assert facts(finding) == ("warning", "pieces", "c2")
    assert finding.files == (cohort.file("label", 2),)
    assert finding.message == (
        "class big (value 2) is in 6 pieces (320, 1, 1, 1, 1, 1 voxels), the median over the cases is 1"
    )
    assert "erase slips of the pen" in finding.remedy


def test_a_speck_beside_what_is_one_piece_elsewhere_is_a_note(cohort: Cohort) -> None:
    cohort.labels[2][14, 14, 13:15] = 2
    (finding,) = cohort.findings()
    assert facts(finding) == ("note", "specks", "c2")
    assert finding.message == (
        "class big (value 2) has 1 speck (2 voxels) beside its largest piece of 320, most cases have one piece"
    )


def test_voxels_that_touch_at_a_corner_are_one_piece(cohort: Cohort) -> None:
    cohort.labels[2][10, 12, 12] = 2
    assert cohort.findings() == []


def test_lesions_may_be_few_or_many(cohort: Cohort) -> None:
    for number, label in enumerate(cohort.labels):
        label[1:15:2, 14, 14][: number + 1] = 2
    assert cohort.findings() == []


def test_a_class_of_few_voxels_in_one_case_is_a_warning(cohort: Cohort) -> None:
    cohort.labels[5][cohort.labels[5] == 2] = 0
    cohort.labels[5][8, 8, 8:11] = 2
    (finding,) = cohort.findings()
    assert facts(finding) == ("warning", "tiny-class", "c5")
    assert finding.message == "class big (value 2) has 3 voxels, the median over the cases is 300"


def test_a_class_of_few_voxels_in_all_cases_is_one_note(cohort: Cohort) -> None:
    for number, label in enumerate(cohort.labels):
        label[label == 3] = 0
        label[12, 4, 4 : 7 + number % 3] = 3
    (finding,) = cohort.findings()
    assert facts(finding) == ("note", "tiny-class", "")
    assert finding.message == "class far (value 3) has 4 voxels a case (median); so small a class is easily missed"


@pytest.mark.parametrize(
    ("num_cases", "severity", "which"),
    [
        (8, "warning", "2 of 8 training cases (c0, c1)"),
        (13, "note", "6 of 13 training cases (c0, c1, c2, c3, c4 and 1"),
    ],
)
def test_a_class_that_most_cases_lack_is_told(tmp_path: Path, num_cases: int, severity: str, which: str) -> None:
    cohort = Cohort(tmp_path, num_cases)
    for label in cohort.labels[int(which[0]) :]:
        label[label == 3] = 0
    (finding,) = cohort.findings()
    assert facts(finding) == (severity, "rare-class", "")
    assert finding.message.startswith(f"class far (value 3) is in {which}")
    assert "not that nobody has drawn it" in finding.remedy


def test_a_class_that_half_of_the_cases_have_is_not_rare(cohort: Cohort) -> None:
    for label in cohort.labels[4:]:
        label[label == 3] = 0
    assert cohort.findings() == []


def test_the_ignore_label_is_no_class(cohort: Cohort) -> None:
    cohort.info = replace(cohort.info, labels={"background": 0, "near": 1, "big": 2}, ignore_label=3)
    cohort.labels[2][14, 9:16:2, 2:16:2] = 3
    assert cohort.findings() == []


def test_an_image_on_another_scale_is_a_warning(cohort: Cohort) -> None:
    cohort.images[6] *= 10
    (finding,) = cohort.findings()
    assert facts(finding) == ("warning", "intensity-outlier", "c6")
    assert finding.files == (cohort.file("image", 6),)
    assert finding.message.startswith("channel MRI: the median of the labelled voxels is 1058, in the other cases")
    assert finding.message.endswith("mostly 100.1 to 106.9")
    assert "another sequence, contrast or unit" in finding.remedy


def test_an_image_of_another_range_is_a_warning_whatever_its_middle(cohort: Cohort) -> None:
    for image in cohort.images:
        image -= image.mean()
    cohort.images[6] *= 10
    (finding,) = cohort.findings()
    assert facts(finding) == ("warning", "intensity-outlier", "c6")
    assert "the range from the 1st to the 99th percentile is 4" in finding.message


def test_an_image_that_is_shifted_is_a_warning_where_values_are_negative(cohort: Cohort) -> None:
    for image in cohort.images:
        image -= image.mean()
    cohort.images[6] -= 1000
    (finding,) = cohort.findings()
    assert facts(finding) == ("warning", "intensity-outlier", "c6")
    assert "the median of the labelled voxels is -1000" in finding.message


def test_a_median_near_zero_is_no_outlier_among_values_of_both_signs(cohort: Cohort) -> None:
    for number, (image, label) in enumerate(zip(cohort.images, cohort.labels, strict=True)):
        image -= np.median(image[label > 0]) - (0.01 if number == 6 else 1 + number / 100)
    assert cohort.findings() == []


def test_an_image_less_than_twice_as_bright_is_no_outlier(cohort: Cohort) -> None:
    cohort.images[6] *= 1.6
    assert cohort.findings() == []


def test_several_scales_in_one_data_set_are_one_note(cohort: Cohort) -> None:
    for image in cohort.images[:3]:
        image *= 1000
    (finding,) = cohort.findings()
    assert facts(finding) == ("note", "intensity-scales", "")
    assert "in 3 of 8 cases far from its median of 106" in finding.message
    assert "no harm where each image is normalised by itself" in finding.remedy


def test_four_cases_are_too_few_to_call_one_odd(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path, 4)
    cohort.images[1] *= 100
    cohort.labels[2][1:14:3, 14, 14] = 2
    cohort.labels[3][cohort.labels[3] == 3] = 0
    assert cohort.findings() == []


def test_labels_that_name_sides_are_a_note_and_a_swap_a_warning(cohort: Cohort) -> None:
    cohort.info = replace(cohort.info, labels={"background": 0, "left lobe": 1, "big": 2, "right lobe": 3})
    cohort.images[4], cohort.labels[4] = flipped(cohort.images[4]), flipped(cohort.labels[4])
    swapped, note = cohort.findings()
    assert facts(swapped) == ("warning", "sides-swapped", "c4")
    assert swapped.message == "by the header, left lobe lies to the right of right lobe"
    assert facts(note) == ("note", "sided-labels", "")
    assert note.message == (
        "labels left lobe and right lobe differ only in their side; training will not mirror the left-right axis"
    )


def test_sides_are_found_by_the_header_in_any_order_of_axes(cohort: Cohort) -> None:
    cohort.info = replace(cohort.info, labels={"background": 0, "left lobe": 1, "big": 2, "right lobe": 3})
    cohort.affines = [FLIPPED] * 8
    cohort.images, cohort.labels = [list(map(flipped, arrays)) for arrays in (cohort.images, cohort.labels)]
    assert [finding.kind for finding in cohort.findings()] == ["sided-labels"]


@pytest.mark.shared_data
@pytest.mark.skipif(not CHAOS.is_dir(), reason="the CHAOS data are not beside the checkout")
def test_what_is_odd_in_the_chaos_cases_is_found(tmp_path: Path) -> None:
    numbers = sorted(path.name.removeprefix("image_").removesuffix(".nii.gz") for path in CHAOS.glob("image_*"))
    rows = [f"{number},{CHAOS}/image_{number}.nii.gz,{CHAOS}/label_{number}.nii.gz" for number in numbers]
    (tmp_path / "chaos.csv").write_text("\n".join(["case_id,image,label", *rows]) + "\n")
    labels = {"background": 0, "liver": 1, "right kidney": 2, "left kidney": 3, "spleen": 4}
    (tmp_path / "chaos.json").write_text(json.dumps({"labels": labels, "channels": ["T2"]}))
    findings = check(open_source(str(tmp_path / "chaos.csv"), tmp_path / "files"))
    assert [(*facts(finding), finding.files, finding.message) for finding in findings] == [
        (
            "warning",
            "intensity-outlier",
            "15",
            (f"{CHAOS}/image_15.nii.gz",),
            "channel T2: the median of the labelled voxels is 134, in the other cases mostly 301.8 to 428.2",
        ),
        (
            "note",
            "specks",
            "3",
            (f"{CHAOS}/label_3.nii.gz",),
            "class left kidney (value 3) has 1 speck (12 voxels) beside its largest piece of 16142, most cases have "
            "one piece",
        ),
        (
            "note",
            "sided-labels",
            "",
            (),
            "labels left kidney and right kidney differ only in their side; training will not mirror the left-right "
            "axis",
        ),
    ]
