from __future__ import annotations

from pathlib import Path

from pipelines.cases.case import Case, DatasetInfo, read_cases, read_info, split_off_ignore, write_cases, write_info

CASES = [
    Case("a", ("a0.nii", "a1.nii"), "a_label.nii", "p", "train", 1, "00ff", (3, 4, 5), (3.0, 1.5, 1.0), (1.0,) * 16),
    Case("b", ("b.nii",), None, "b", "test", None, "ff00", (1, 4, 5), (1.0, 1.0, 1.0), (0.5,) * 16),
]


def test_cases_come_back_as_they_were(tmp_path: Path) -> None:
    write_cases(tmp_path / "cases.parquet", CASES)
    assert read_cases(tmp_path / "cases.parquet") == CASES


def test_info_comes_back_as_it_was(tmp_path: Path) -> None:
    info = DatasetInfo("d", ("T1", "T2"), {"background": 0, "liver": 1}, 2, "text")
    write_info(tmp_path / "dataset.json", info)
    assert read_info(tmp_path / "dataset.json") == info


def test_ignore_is_no_class() -> None:
    assert split_off_ignore({"background": 0, "ignore": 2, "a": 1}) == ({"background": 0, "a": 1}, 2)
    assert split_off_ignore({"background": 0}) == ({"background": 0}, None)
