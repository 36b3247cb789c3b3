from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.cases import case_check
from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry
from pipelines.cases.collect import open_source
from pipelines.cases.integrity import Finding, IntegrityError, check, examine, write_report

SHARED = Path(__file__).parents[3] / "../shared/data"
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
SIDE = 8


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    nib.Nifti1Image(array, affine).to_filename(path)


def changed_image(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = folder / "imagesTr/case_1.nii.gz"
    save(path, change(nib.load(path).get_fdata(dtype=np.float32)))


def changed_label(folder: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AFFINE) -> None:
    path = folder / "labelsTr/case_1.nii.gz"
    save(path, change(np.asarray(nib.load(path).dataobj)), affine)


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float32)
        array[0, 0, 0] = value
        return array

    return change


def same(array: np.ndarray) -> np.ndarray:
    return array


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shifted(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 3] = mm
    return affine


IMAGE = "imagesTr/case_1.nii.gz"
LABEL = "labelsTr/case_1.nii.gz"

# What is done to case_1 of a sound data set, and the one finding that follows: severity, file, rule, message.
BAD_FILES = {
    "missing image": (lambda f: (f / IMAGE).unlink(), "error", IMAGE, "missing-file", "no such file; put it there"),
    "missing label": (lambda f: (f / LABEL).unlink(), "error", LABEL, "missing-file", "no such file; put it there"),
    "truncated image": (lambda f: truncated(f / IMAGE), "error", IMAGE, "unreadable", "truncated or damaged: copy it"),
    "truncated label": (lambda f: truncated(f / LABEL), "error", LABEL, "unreadable", "truncated or damaged: copy it"),
    "another shape": (
        lambda f: changed_label(f, lambda a: a[:, :, :7]),
        "error",
        LABEL,
        "shape",
        "shape (z, y, x) (7, 8, 8), the image has (8, 8, 8); it must lie on the grid of",
    ),
    "another spacing": (
        lambda f: changed_label(f, same, np.diag([1, 2, 4, 1])),
        "error",
        LABEL,
        "spacing",
        "spacing (z, y, x) (4.0, 2.0, 1.0) mm, the image has (3.0, 2.0, 1.0) mm",
    ),
    "another orientation": (
        lambda f: changed_label(f, same, np.diag([-1, 2, 3, 1])),
        "error",
        LABEL,
        "affine",
        "its axes run LAS, those of the image RAS",
    ),
    "another origin": (
        lambda f: changed_label(f, same, shifted(5)),
        "error",
        LABEL,
        "affine",
        "(origin [0.0, 5.0, 0.0]) puts voxels up to 5 voxels off the image (origin [0.0, 0.0, 0.0])",
    ),
    "a tiny shift": (
        lambda f: changed_label(f, same, shifted(0.01)),
        "warning",
        LABEL,
        "affine",
        "up to 0.01 voxels off the image (origin [0.0, 0.0, 0.0]); taken as rounding",
    ),
    "undeclared value": (
        lambda f: changed_label(f, with_value(7)),
        "error",
        LABEL,
        "label-value",
        "label values [7] are not allowed, declared are [0, 1, 2]",
    ),
    "fraction in label": (
        lambda f: changed_label(f, with_value(0.5)),
        "error",
        LABEL,
        "label-not-integer",
        "label values [0.5] are not whole numbers",
    ),
    "channels in label": (
        lambda f: changed_label(f, lambda a: np.stack([a, a], axis=-1)),
        "error",
        LABEL,
        "label-channels",
        "a label map with 2 channels",
    ),
    "NaN": (
        lambda f: changed_image(f, with_value(np.nan)),
        "error",
        IMAGE,
        "not-finite",
        "1 voxels are NaN or infinite",
    ),
    "infinite": (
        lambda f: changed_image(f, with_value(np.inf)),
        "error",
        IMAGE,
        "not-finite",
        "1 voxels are NaN or infinite",
    ),
    "constant": (
        lambda f: changed_image(f, lambda a: np.full_like(a, 3)),
        "warning",
        IMAGE,
        "constant-image",
        "all voxels of channel 0 are 3.0",
    ),
    "two channels": (
        lambda f: changed_image(f, lambda a: np.stack([a, 2 * a], axis=-1)),
        "error",
        IMAGE,
        "channel-count",
        "2 channels, but the data set has 1 ['MRI']",
    ),
    "copied image": (
        lambda f: shutil.copy(f / "imagesTr/case_0.nii.gz", f / IMAGE),
        "warning",
        IMAGE,
        "duplicate-image",
        "the same image as case case_0",
    ),
    "copied label": (
        lambda f: shutil.copy(f / "labelsTr/case_0.nii.gz", f / LABEL),
        "warning",
        LABEL,
        "duplicate-label",
        "the same label as case case_0",
    ),
}


def test_a_sound_data_set_has_no_findings(decathlon: Callable[..., Path]) -> None:
    assert check(open_source(str(decathlon()), Path())) == []


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gives_its_finding_alone(decathlon: Callable[..., Path], name: str) -> None:
    spoil, severity, file, rule, message = BAD_FILES[name]
    folder = decathlon()
    spoil(folder)
    (finding,) = check(open_source(str(folder), Path()))
    assert (finding.severity, finding.case_id, finding.rule) == (severity, "case_1", rule)
    assert finding.file == str(folder / file)
    assert message in finding.message


def test_every_finding_comes_in_one_pass_errors_first(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    save(folder / "imagesTr/case_0.nii.gz", np.full((SIDE,) * 3, 3.0))
    (folder / IMAGE).unlink()
    truncated(folder / "labelsTr/case_2.nii.gz")
    found = [(finding.severity, finding.case_id, finding.rule) for finding in check(open_source(str(folder), Path()))]
    assert found == [
        ("error", "case_1", "missing-file"),
        ("error", "case_2", "unreadable"),
        ("warning", "case_0", "constant-image"),
    ]


@pytest.mark.parametrize(
    ("labels", "severity", "rule", "message"),
    [
        (
            ["background", "near", "far", "none"],
            "warning",
            "absent-class",
            "class none (value 3) is in no training case",
        ),
        (
            {"1": "near", "2": "far"},
            "error",
            "label-numbers",
            "label values [1, 2] for ['near', 'far']; they must be 0",
        ),
        ({"0": "b", "1": "n", "2": "f", "4": "g"}, "error", "label-numbers", "label values [0, 1, 2, 4]"),
        ({"0": "b", "1": "ignore", "2": "f"}, "error", "label-numbers", "label values [0, 2, 1]"),
    ],
)
def test_a_bad_declaration_is_found(
    decathlon: Callable[..., Path], labels: list[str] | dict[str, str], severity: str, rule: str, message: str
) -> None:
    declared = labels if isinstance(labels, dict) else {str(value): name for value, name in enumerate(labels)}
    findings = [f for f in check(open_source(str(decathlon(labels=declared)), Path())) if f.rule == rule]
    assert len(findings) == 1
    assert findings[0].severity == severity
    assert message in findings[0].message


def test_no_training_cases_is_an_error(decathlon: Callable[..., Path]) -> None:
    (finding,) = check(open_source(str(decathlon(training=[])), Path()))
    assert (finding.severity, finding.rule) == ("error", "no-cases")
    assert "no training cases (1 test cases)" in finding.message


def entry(folder: Path, case_id: str, number: int, split: str = "train", patient: str | None = None) -> RawEntry:
    image, label = (str(folder / f"{part}Tr" / f"case_{number}.nii.gz") for part in ("images", "labels"))
    return RawEntry(case_id, (image,), label, patient, split, None)


INFO = DatasetInfo("tiny", ("MRI",), {"background": 0, "near": 1, "far": 2})


def test_a_patient_on_both_sides_is_a_warning(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    entries = [entry(folder, "a", 0, "train", "p"), entry(folder, "b", 1, "test", "p")]
    (finding,) = check(RawDataset(INFO, entries))
    assert (finding.severity, finding.rule) == ("warning", "patient-in-both")
    assert "patient p has training and test cases" in finding.message


def test_an_id_that_stands_twice_is_an_error(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    (finding,) = check(RawDataset(INFO, [entry(folder, "a", 0), entry(folder, "a", 1)]))
    assert (finding.severity, finding.case_id, finding.rule) == ("error", "a", "case-id")


def test_image_without_label_and_label_without_image(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    whole = entry(folder, "a", 0)
    without_label = RawEntry("b", entry(folder, "b", 1).image_paths, None, None, "train", None)
    without_image = RawEntry("c", (), str(folder / "labelsTr/case_2.nii.gz"), None, "train", None)
    findings = check(RawDataset(INFO, [whole, without_label, without_image]))
    assert [(f.severity, f.case_id, f.file, f.rule) for f in findings] == [
        ("error", "b", str(folder / "imagesTr/case_1.nii.gz"), "image-without-label"),
        ("error", "c", str(folder / "labelsTr/case_2.nii.gz"), "label-without-image"),
    ]


def test_channels_of_a_case_that_disagree(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    first = entry(folder, "a", 0)
    second = folder / "second.nii.gz"
    save(second, np.random.default_rng(0).normal(size=(SIDE, SIDE, SIDE)), shifted(4))
    info = DatasetInfo("tiny", ("T1", "T2"), INFO.labels)
    both = RawEntry("a", (*first.image_paths, str(second)), first.label_path, None, "train", None)
    (finding,) = check(RawDataset(info, [both]))
    assert (finding.severity, finding.file, finding.rule) == ("error", str(second), "channels-disagree")
    assert f"it must lie on the grid of {first.image_paths[0]}" in finding.message


def test_each_file_is_read_once(decathlon: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    read_file = case_check.read_file

    def counted(path: str) -> object:
        reads.append(path)
        return read_file(path)

    monkeypatch.setattr(case_check, "read_file", counted)
    examine(open_source(str(decathlon()), Path()))
    assert len(reads) == len(set(reads)) == 9


def test_the_digest_follows_image_and_label(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    before = [case.digest for case in examine(open_source(str(folder), Path()))[1]]
    changed_label(folder, with_value(1))
    after = [case.digest for case in examine(open_source(str(folder), Path()))[1]]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, True, True]
    assert len(set(before)) == 5


def test_a_label_of_floats_is_read_like_one_of_integers(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    changed_label(folder, lambda a: a.astype(np.float64))
    _, facts, findings = examine(open_source(str(folder), Path()))
    assert findings == []
    assert facts[1].label_values == (0, 1, 2)


def test_the_report_is_read_by_machines(tmp_path: Path) -> None:
    findings = [Finding("error", "a", "a.nii", "shape", "text"), Finding("warning", "", "", "absent-class", "other")]
    write_report(tmp_path / "integrity.json", "tiny", 3, findings)
    assert json.loads((tmp_path / "integrity.json").read_text()) == {
        "dataset": "tiny",
        "num_cases": 3,
        "errors": [{"severity": "error", "case_id": "a", "file": "a.nii", "rule": "shape", "message": "text"}],
        "warnings": [{"severity": "warning", "case_id": "", "file": "", "rule": "absent-class", "message": "other"}],
    }


def test_the_error_shows_twenty_and_the_command_for_all() -> None:
    findings = [Finding("error", f"c{number}", f"{number}.nii", "shape", "text") for number in range(25)]
    lines = str(IntegrityError("data/x", findings)).splitlines()
    assert lines[0] == "data/x: 25 errors in the data set"
    assert lines[1] == "  case c0: 0.nii: text [shape]"
    assert lines[20] == "  case c19: 19.nii: text [shape]"
    assert lines[21:] == ["  and 5 more", "see them all: repro check data/x"]


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not beside the checkout")
def test_the_faulty_hippocampus_files_are_found(tmp_path: Path) -> None:
    sound, faulty = SHARED / "Task04_Hippocampus", SHARED / "Task04_Hippocampus_faulty"

    def image(number: str) -> tuple[str]:
        return (str(sound / "imagesTr" / f"hippocampus_{number}.nii.gz"),)

    def label(folder: Path, number: str) -> str:
        return str(folder / f"hippocampus_{number}.nii.gz")

    copied = gzip.decompress((faulty / "labels/hippocampus_010.nii.gz").read_bytes())
    original = next(
        path.name.removesuffix(".nii.gz").removeprefix("hippocampus_")
        for path in sorted((sound / "labelsTr").iterdir())
        if path.name > "hippocampus_010" and gzip.decompress(path.read_bytes()) == copied
    )
    entries = [
        RawEntry("118", (str(faulty / "images/hippocampus_118.nii.gz"),), None, None, "train", None),
        RawEntry("011", image(original), label(sound / "labelsTr", original), None, "train", None),
        RawEntry("010", image("001"), label(faulty / "labels", "010"), None, "train", None),
        RawEntry("281", image("003"), label(faulty / "labels", "281"), None, "train", None),
    ]
    info = DatasetInfo("Hippocampus", ("MRI",), {"background": 0, "Anterior": 1, "Posterior": 2})
    found = {(f.severity, f.case_id, f.rule) for f in check(RawDataset(info, entries))}
    assert found == {
        ("error", "118", "image-without-label"),
        ("error", "010", "shape"),
        ("warning", "010", "duplicate-label"),
        ("error", "281", "shape"),
        ("error", "281", "spacing"),
    }
