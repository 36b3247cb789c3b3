from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.cases.case import read_cases, read_info
from pipelines.cases.collect import collect_cases, open_source
from pipelines.cases.integrity import IntegrityError


def write_manifest(folder: Path, rows: list[str], columns: str = "case_id,image,label,fold") -> str:
    (folder / "cases.csv").write_text("\n".join([columns, *rows]) + "\n")
    return str(folder / "cases.csv")


def row(number: int, fold: str = "", patient: str = "") -> str:
    files = f"data/imagesTr/case_{number}.nii.gz,data/labelsTr/case_{number}.nii.gz"
    return f"c{number},{files},{fold}" + (f",{patient}" if patient else "")


def test_a_study_gets_its_cases(decathlon: Callable[..., Path], tmp_path: Path) -> None:
    folder = decathlon()
    collect_cases(str(folder), "mine", tmp_path / "out", num_folds=2)
    cases = read_cases(tmp_path / "out/cases.parquet")
    assert [case.case_id for case in cases] == ["case_0", "case_1", "case_2", "case_3", "case_9"]
    assert {case.fold for case in cases[:4]} == {0, 1}
    assert (cases[4].fold, cases[4].split, cases[4].label_path) == (None, "test", None)
    assert cases[0].image_paths == (str(folder / "imagesTr/case_0.nii.gz"),)
    assert cases[0].shape == (8, 8, 8)
    assert cases[0].spacing_mm == (3.0, 2.0, 1.0)
    assert cases[0].affine == (1.0, 0, 0, 0, 0, 2.0, 0, 0, 0, 0, 3.0, 0, 0, 0, 0, 1.0)
    assert cases[0].patient == "case_0"
    assert read_info(tmp_path / "out/dataset.json").name == "mine"
    report = json.loads((tmp_path / "out/integrity.json").read_text())
    assert report == {"dataset": "mine", "num_cases": 5, "findings": []}


def test_paths_stay_as_the_user_gave_them(
    decathlon: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decathlon()
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    collect_cases("../data", "mine", "cases/mine", num_folds=2)
    assert read_cases("cases/mine/cases.parquet")[0].image_paths == ("../data/imagesTr/case_0.nii.gz",)


def test_the_same_data_give_the_same_files(decathlon: Callable[..., Path], tmp_path: Path) -> None:
    source = str(decathlon())
    for name in ("first", "second"):
        collect_cases(source, "mine", tmp_path / name, num_folds=2)
    for file in ("cases.parquet", "dataset.json", "integrity.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_errors_stop_it_after_the_report(decathlon: Callable[..., Path], tmp_path: Path) -> None:
    folder = decathlon()
    (folder / "imagesTr/case_1.nii.gz").unlink()
    (folder / "labelsTr/case_2.nii.gz").unlink()
    with pytest.raises(IntegrityError, match=f"{folder}: 2 errors in the data set") as raised:
        collect_cases(str(folder), "mine", tmp_path / "out", num_folds=2)
    assert "case case_1:" in str(raised.value)
    assert "case case_2:" in str(raised.value)
    assert f"repro check {folder}" in str(raised.value)
    assert len(json.loads((tmp_path / "out/integrity.json").read_text())["findings"]) == 2
    assert not (tmp_path / "out/cases.parquet").exists()


def test_folds_of_a_manifest_are_kept(decathlon: Callable[..., Path], tmp_path: Path) -> None:
    decathlon()
    source = write_manifest(tmp_path, [row(0, "1"), row(1, "1"), row(2, "0")])
    collect_cases(source, "mine", tmp_path / "out", num_folds=2)
    assert [case.fold for case in read_cases(tmp_path / "out/cases.parquet")] == [1, 1, 0]
    assert read_info(tmp_path / "out/dataset.json").labels == {"background": 0, "class_1": 1, "class_2": 2}


@pytest.mark.parametrize(
    ("rows", "num_folds", "message"),
    [
        ([row(0, "0"), row(1), row(2, "1")], 2, "case c1: no fold"),
        ([row(0, "0"), row(1, "1"), row(2, "2")], 2, "case c2: fold 2, but num_folds is 2"),
        ([row(0, "0", "p"), row(1, "1", "p")], 2, "patient p is in fold 1 and in fold 0"),
        ([row(0), row(1), row(2)], 4, "4 folds, but only 3 training patients; set num_folds to 3 or fewer"),
        ([row(0, "", "p"), row(1, "", "p")], 2, "2 folds, but only 1 training patients"),
    ],
)
def test_folds_that_do_not_work_are_refused(
    decathlon: Callable[..., Path], tmp_path: Path, rows: list[str], num_folds: int, message: str
) -> None:
    decathlon()
    source = write_manifest(tmp_path, rows, "case_id,image,label,fold,patient")
    with pytest.raises(ValueError, match=message):
        collect_cases(source, "mine", tmp_path / "out", num_folds)


SCRIPT = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path

@dataclass
class Settings:
    name: str

def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "cases.csv").write_text("case_id,image,label\\na,a.nii,l.nii\\n")
    return folder / "cases.csv"
"""


def test_a_python_file_makes_the_data(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    raw = open_source(str(tmp_path / "own.py"), tmp_path / "out/files")
    assert raw.entries[0].image_paths == (str(tmp_path / "out/files/a.nii"),)


def test_a_python_file_without_make_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"own.py: has no function make\(folder\)"):
        open_source(str(tmp_path / "own.py"), tmp_path / "files")


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder; set `source` to where the data lie"):
        open_source(str(tmp_path / "nowhere"), tmp_path)


def test_an_unknown_folder_shows_what_is_in_it_and_what_is_known(tmp_path: Path) -> None:
    for name in ("scans", "masks.zip"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=r"not known; found in the folder: \['masks.zip', 'scans'\]") as raised:
        open_source(str(tmp_path), tmp_path)
    for known in ("Medical Segmentation Decathlon", "nnU-Net raw", "manifest"):
        assert known in str(raised.value)


def test_an_unknown_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.zip").touch()
    with pytest.raises(ValueError, match=r"data.zip: the layout is not known; a file of type .zip"):
        open_source(str(tmp_path / "data.zip"), tmp_path)
