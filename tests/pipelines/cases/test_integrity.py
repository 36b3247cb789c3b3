from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.cases import nifti
from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry
from pipelines.cases.collect import open_source
from pipelines.cases.finding import Finding
from pipelines.cases.integrity import IntegrityError, check, conclude, examine

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


def with_spacing(path: Path, zooms: tuple[float, float, float]) -> None:
    """Change the spacing in the header and leave the affine."""
    image = nib.load(path)
    image.header.set_zooms(zooms)
    image.set_sform(AFFINE, code=1, update_affine=False)
    nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(path)


def recompressed(source: Path, target: Path) -> None:
    target.write_bytes(gzip.compress(gzip.decompress(source.read_bytes()), 1, mtime=0))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shifted(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 3] = mm
    return affine


IMAGE = "imagesTr/case_1.nii.gz"
LABEL = "labelsTr/case_1.nii.gz"

COPIED = {IMAGE: "imagesTr/case_0.nii.gz", LABEL: "labelsTr/case_0.nii.gz"}
ON_THE_GRID = "it must lie on the grid of"
ROUNDING = "taken as rounding"

# What is done to case_1 of a sound data set, and the one finding that follows: severity, file, kind, message, remedy.
BAD_FILES = {
    "missing image": (lambda f: (f / IMAGE).unlink(), "error", IMAGE, "missing-file", "no such file", "put it there"),
    "missing label": (lambda f: (f / LABEL).unlink(), "error", LABEL, "missing-file", "no such file", "put it there"),
    "truncated image": (
        lambda f: truncated(f / IMAGE),
        "error",
        IMAGE,
        "unreadable",
        "cannot be read as NIfTI (",
        "truncated or damaged: copy it",
    ),
    "truncated label": (
        lambda f: truncated(f / LABEL),
        "error",
        LABEL,
        "unreadable",
        "cannot be read as NIfTI (",
        "truncated or damaged: copy it",
    ),
    "another shape": (
        lambda f: changed_label(f, lambda a: a[:, :, :7]),
        "error",
        LABEL,
        "shape",
        "shape (z, y, x) (7, 8, 8), the image has (8, 8, 8)",
        ON_THE_GRID,
    ),
    "another spacing": (
        lambda f: changed_label(f, same, np.diag([1, 2, 4, 1])),
        "error",
        LABEL,
        "spacing",
        "spacing (z, y, x) (4.0, 2.0, 1.0) mm, the image has (3.0, 2.0, 1.0) mm",
        ON_THE_GRID,
    ),
    "another orientation": (
        lambda f: changed_label(f, same, np.diag([-1, 2, 3, 1])),
        "error",
        LABEL,
        "affine",
        "its axes run LAS, those of the image RAS",
        ON_THE_GRID,
    ),
    "another origin": (
        lambda f: changed_label(f, same, shifted(5)),
        "error",
        LABEL,
        "affine",
        "(origin [0.0, 5.0, 0.0]) puts voxels up to 5 voxels off the image (origin [0.0, 0.0, 0.0])",
        "where only its header is wrong, give it the affine of the image",
    ),
    "a tiny shift": (
        lambda f: changed_label(f, same, shifted(0.01)),
        "warning",
        LABEL,
        "affine",
        "up to 0.01 voxels off the image (origin [0.0, 0.0, 0.0])",
        ROUNDING,
    ),
    "a spacing rounded in the header alone": (
        lambda f: with_spacing(f / LABEL, (1.0, 2.001, 3.0)),
        "warning",
        LABEL,
        "spacing",
        "mm, the image has (3.0, 2.0, 1.0) mm",
        ROUNDING,
    ),
    "undeclared value": (
        lambda f: changed_label(f, with_value(7)),
        "error",
        LABEL,
        "label-value",
        "label values [7] are not allowed, declared are [0, 1, 2]",
        "correct the label map or the declaration",
    ),
    "fraction in label": (
        lambda f: changed_label(f, with_value(0.5)),
        "error",
        LABEL,
        "label-not-integer",
        "label values [0.5] are not whole numbers",
        "resampled with nearest neighbour only",
    ),
    "NaN in label": (
        lambda f: changed_label(f, with_value(np.nan)),
        "error",
        LABEL,
        "label-not-integer",
        "label values [nan] are not whole numbers",
        "resampled with nearest neighbour only",
    ),
    "channels in label": (
        lambda f: changed_label(f, lambda a: np.stack([a, a], axis=-1)),
        "error",
        LABEL,
        "label-channels",
        "a label map with 2 channels",
        "save one map of class numbers",
    ),
    "nothing in label": (
        lambda f: changed_label(f, np.zeros_like),
        "warning",
        LABEL,
        "empty-label",
        "a training label without any class",
        "fine where there is nothing to find",
    ),
    "NaN": (
        lambda f: changed_image(f, with_value(np.nan)),
        "error",
        IMAGE,
        "not-finite",
        "1 voxels of channel 0 are NaN or infinite",
        "replace them",
    ),
    "infinite": (
        lambda f: changed_image(f, with_value(np.inf)),
        "error",
        IMAGE,
        "not-finite",
        "1 voxels of channel 0 are NaN or infinite",
        "replace them",
    ),
    "constant": (
        lambda f: changed_image(f, lambda a: np.full_like(a, 3)),
        "warning",
        IMAGE,
        "constant-image",
        "all voxels of channel 0 are 3.0",
        "leave the case out",
    ),
    "two channels": (
        lambda f: changed_image(f, lambda a: np.stack([a, 2 * a], axis=-1)),
        "error",
        IMAGE,
        "channel-count",
        "2 channels, but the data set has 1 ['MRI']",
        "add what is missing",
    ),
    "copied image": (
        lambda f: shutil.copy(f / COPIED[IMAGE], f / IMAGE),
        "warning",
        IMAGE,
        "duplicate-image",
        "the same image as case case_0",
        "drop one",
    ),
    "copied image in other bytes": (
        lambda f: recompressed(f / COPIED[IMAGE], f / IMAGE),
        "warning",
        IMAGE,
        "duplicate-image",
        "the same image as case case_0",
        "drop one",
    ),
    "copied label": (
        lambda f: shutil.copy(f / COPIED[LABEL], f / LABEL),
        "warning",
        LABEL,
        "duplicate-label",
        "the same label as case case_0",
        "find the right label",
    ),
}


def test_a_sound_data_set_has_no_findings(decathlon: Callable[..., Path]) -> None:
    assert check(open_source(str(decathlon()), Path())) == []


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gives_its_finding_alone(decathlon: Callable[..., Path], name: str) -> None:
    spoil, severity, file, kind, message, remedy = BAD_FILES[name]
    folder = decathlon()
    spoil(folder)
    (finding,) = check(open_source(str(folder), Path()))
    assert (finding.severity, finding.case_id, finding.kind) == (severity, "case_1", kind)
    assert finding.files[0] == str(folder / file)
    assert finding.files[1:] == tuple(str(folder / copied) for copied in [COPIED[file]] if kind.startswith("duplicate"))
    assert message in finding.message
    assert remedy in finding.remedy


def test_every_finding_comes_in_one_pass_errors_first(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    save(folder / "imagesTr/case_0.nii.gz", np.full((SIDE,) * 3, 3.0))
    (folder / IMAGE).unlink()
    truncated(folder / "labelsTr/case_2.nii.gz")
    found = [(finding.severity, finding.case_id, finding.kind) for finding in check(open_source(str(folder), Path()))]
    assert found == [
        ("error", "case_1", "missing-file"),
        ("error", "case_2", "unreadable"),
        ("warning", "case_0", "constant-image"),
    ]


@pytest.mark.parametrize(
    ("labels", "severity", "kind", "message"),
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
    decathlon: Callable[..., Path], labels: list[str] | dict[str, str], severity: str, kind: str, message: str
) -> None:
    declared = labels if isinstance(labels, dict) else {str(value): name for value, name in enumerate(labels)}
    findings = [f for f in check(open_source(str(decathlon(labels=declared)), Path())) if f.kind == kind]
    assert len(findings) == 1
    assert findings[0].severity == severity
    assert message in findings[0].message


def test_no_training_cases_is_an_error(decathlon: Callable[..., Path]) -> None:
    (finding,) = check(open_source(str(decathlon(training=[])), Path()))
    assert (finding.severity, finding.kind) == ("error", "no-cases")
    assert "no training cases (1 test cases)" in finding.message


def entry(folder: Path, case_id: str, number: int, split: str = "train", patient: str | None = None) -> RawEntry:
    image, label = (str(folder / f"{part}Tr" / f"case_{number}.nii.gz") for part in ("images", "labels"))
    return RawEntry(case_id, (image,), label, patient, split, None)


@pytest.mark.parametrize("layout", ["decathlon", "nnunet"])
def test_another_number_of_training_cases_than_declared_is_a_warning(
    decathlon: Callable[..., Path], layout: str
) -> None:
    folder = decathlon(numTraining=5)
    if layout == "nnunet":
        content = json.loads((folder / "dataset.json").read_text())
        content |= {"labels": {"background": 0, "near": 1, "far": 2}, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(content))
        for path in list(folder.glob("imagesT?/*")):
            path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    (finding,) = check(open_source(str(folder), Path()))
    assert (finding.severity, finding.kind) == ("warning", "num-training")
    assert finding.message == "numTraining of dataset.json is 5, but there are 4 training cases"
    assert finding.remedy == "copy what was lost on the way, or correct the number"


INFO = DatasetInfo("tiny", ("MRI",), {"background": 0, "near": 1, "far": 2})


def test_a_patient_on_both_sides_is_a_warning(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    entries = [entry(folder, "a", 0, "train", "p"), entry(folder, "b", 1, "test", "p")]
    (finding,) = check(RawDataset(INFO, entries))
    assert (finding.severity, finding.kind) == ("warning", "patient-in-both")
    assert "patient p has training cases (a) and test cases (b)" in finding.message


def test_an_id_that_stands_twice_is_an_error(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    (finding,) = check(RawDataset(INFO, [entry(folder, "a", 0), entry(folder, "a", 1)]))
    assert (finding.severity, finding.case_id, finding.kind) == ("error", "a", "case-id")


def test_image_without_label_and_label_without_image(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    whole = entry(folder, "a", 0)
    without_label = RawEntry("b", entry(folder, "b", 1).image_paths, None, None, "train", None)
    without_image = RawEntry("c", (), str(folder / "labelsTr/case_2.nii.gz"), None, "train", None)
    findings = check(RawDataset(INFO, [whole, without_label, without_image]))
    assert [(f.severity, f.case_id, f.files, f.kind) for f in findings] == [
        ("error", "b", (str(folder / "imagesTr/case_1.nii.gz"),), "image-without-label"),
        ("error", "c", (str(folder / "labelsTr/case_2.nii.gz"),), "label-without-image"),
    ]


def test_channels_of_a_case_that_disagree(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    first = entry(folder, "a", 0)
    second = folder / "second.nii.gz"
    save(second, np.random.default_rng(0).normal(size=(SIDE, SIDE, SIDE)), shifted(4))
    info = DatasetInfo("tiny", ("T1", "T2"), INFO.labels)
    both = RawEntry("a", (*first.image_paths, str(second)), first.label_path, None, "train", None)
    (finding,) = check(RawDataset(info, [both]))
    assert (finding.severity, finding.files, finding.kind) == ("error", (str(second),), "channels-disagree")
    assert f"it must lie on the grid of {first.image_paths[0]}" in finding.remedy


def test_a_file_that_is_two_channels_of_a_case_is_a_warning(decathlon: Callable[..., Path]) -> None:
    folder = decathlon()
    first = entry(folder, "a", 0)
    second = folder / "second.nii.gz"
    recompressed(Path(first.image_paths[0]), second)
    info = DatasetInfo("tiny", ("T1", "T2"), INFO.labels)
    both = RawEntry("a", (*first.image_paths, str(second)), first.label_path, None, "train", None)
    (finding,) = check(RawDataset(info, [both]))
    assert (finding.severity, finding.files, finding.kind) == ("warning", (str(second),), "channels-alike")
    assert finding.message == f"the same voxels as {first.image_paths[0]}, the image of another channel"


def test_each_file_is_read_once(decathlon: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    opened = nifti._open

    def counted(path: str) -> object:
        reads.append(path)
        return opened(path)

    monkeypatch.setattr(nifti, "_open", counted)
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
    findings = [Finding("error", "shape", "a", ("a.nii",), "text", "do"), Finding("note", "specks", "", (), "b", "c")]
    with pytest.raises(IntegrityError, match="data/x: 1 error in the data set"):
        conclude("data/x", "tiny", 3, findings, tmp_path / "integrity.json")
    keys = ("severity", "kind", "case_id", "files", "message", "remedy")
    assert json.loads((tmp_path / "integrity.json").read_text()) == {
        "dataset": "tiny",
        "num_cases": 3,
        "findings": [
            dict(zip(keys, ("error", "shape", "a", ["a.nii"], "text", "do"), strict=True)),
            dict(zip(keys, ("note", "specks", "", [], "b", "c"), strict=True)),
        ],
    }


def test_warnings_are_shown_and_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("warning", "pieces", "a", (), "text", "do"), Finding("note", "specks", "", (), "b", "c")]
    conclude("data/x", "tiny", 3, findings, tmp_path / "integrity.json")
    assert capsys.readouterr().out == "warning: case a: text; do [pieces]\n"


def test_the_error_shows_twenty_lines_and_the_command_for_all() -> None:
    findings = [Finding("error", f"kind_{n}", f"c{n}", (f"{n}.nii",), "text", "do") for n in range(25)]
    lines = str(IntegrityError("data/x", findings)).splitlines()
    assert lines[0] == "data/x: 25 errors in the data set"
    assert lines[1] == "  case c0: 0.nii: text; do [kind_0]"
    assert lines[20] == "  case c19: 19.nii: text; do [kind_19]"
    assert lines[21:] == ["  and 5 more", "see them all: repro check data/x"]


def sound_hippocampus() -> RawDataset:
    return open_source(str(SHARED / "Task04_Hippocampus"), Path())


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not beside the checkout")
def test_the_sound_hippocampus_data_have_no_warning() -> None:
    found = [(f.severity, f.kind, f.case_id, f.message) for f in check(sound_hippocampus())]
    assert found == [
        (
            "note",
            "specks",
            "hippocampus_156",
            "class Anterior (value 1) has 1 speck (4 voxels) beside its largest piece of 2098, most cases have one "
            "piece",
        ),
        (
            "note",
            "intensity-scales",
            "",
            "channel MRI: the median of the labelled voxels goes from 37 to 2.394e+05, in 67 of 201 cases far from its "
            "median of 355.6",
        ),
    ]


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not beside the checkout")
def test_the_faulty_hippocampus_files_are_found_among_the_sound_ones() -> None:
    raw = sound_hippocampus()
    faulty = SHARED / "Task04_Hippocampus_faulty"
    without_label = str(faulty / "images/hippocampus_118.nii.gz")
    copied, foreign = (str(faulty / f"labels/hippocampus_{number}.nii.gz") for number in ("010", "281"))
    labels = {"hippocampus_001": copied, "hippocampus_003": foreign}
    entries = [replace(entry, label_path=labels.get(entry.case_id, entry.label_path)) for entry in raw.entries]
    entries.append(RawEntry("118", (without_label,), None, None, "train", None))
    found = [
        (f.severity, f.kind, f.case_id, f.files, f.message)
        for f in check(replace(raw, entries=entries))
        if f.severity != "note"
    ]
    original = str(SHARED / "Task04_Hippocampus/labelsTr/hippocampus_011.nii.gz")
    assert found == [
        (
            "error",
            "shape",
            "hippocampus_001",
            (copied,),
            "shape (z, y, x) (31, 50, 36), the image has (35, 51, 35)",
        ),
        (
            "error",
            "shape",
            "hippocampus_003",
            (foreign,),
            "shape (z, y, x) (94, 512, 512), the image has (35, 52, 34)",
        ),
        (
            "error",
            "spacing",
            "hippocampus_003",
            (foreign,),
            "spacing (z, y, x) (5.0, 0.734375, 0.734375) mm, the image has (1.0, 1.0, 1.0) mm",
        ),
        ("error", "image-without-label", "118", (without_label,), "a training image without label"),
        (
            "warning",
            "num-training",
            "",
            (),
            "numTraining of dataset.json is 201, but there are 202 training cases",
        ),
        (
            "warning",
            "duplicate-label",
            "hippocampus_011",
            (original, copied),
            "the same label as case hippocampus_001, on another image",
        ),
    ]
