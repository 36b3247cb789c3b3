from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

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


def test_objects_are_a_column_only_where_a_case_has_them(tmp_path: Path) -> None:
    write_cases(tmp_path / "without.parquet", CASES)
    assert "instances_path" not in pq.read_schema(tmp_path / "without.parquet").names
    with_objects = [CASES[0], replace(CASES[1], instances_path="masks")]
    write_cases(tmp_path / "with.parquet", with_objects)
    assert read_cases(tmp_path / "with.parquet") == with_objects


def test_measures_are_a_key_only_where_some_are_declared(tmp_path: Path) -> None:
    info = DatasetInfo("d", ("EM",), {"membrane": 0, "cell": 1})
    for measures in ((), ("rand_error",)):
        write_info(tmp_path / "dataset.json", replace(info, measures=measures))
        assert ("measures" in json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))) == bool(measures)
        assert read_info(tmp_path / "dataset.json").measures == measures


def test_ignore_is_no_class() -> None:
    assert split_off_ignore({"background": 0, "ignore": 2, "a": 1}) == ({"background": 0, "a": 1}, 2)
    assert split_off_ignore({"background": 0}) == ({"background": 0}, None)
