from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.cases.collect import open_source
from pipelines.cases.formats import pictures


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_a_label_has_the_name_of_its_image_whatever_its_kind(tmp_path: Path) -> None:
    folder = write(
        tmp_path, "images/b.jpg", "images/a.png", "labels/a.tif", "labels/b.png", "images/.x", "images/x.txt"
    )
    raw = open_source(str(folder), tmp_path / "files")
    assert [(entry.case_id, entry.split) for entry in raw.entries] == [("a", "train"), ("b", "train")]
    assert raw.entries[0].label_path == str(folder / "labels/a.tif")
    assert raw.entries[1].image_paths == (str(folder / "images/b.jpg"),)
    assert raw.entries[0].instances_path is None
    assert raw.info.labels == {}


def test_masks_is_another_name_of_labels(tmp_path: Path) -> None:
    (entry,) = pictures.read(write(tmp_path, "images/a.png", "masks/a.png")).entries
    assert entry.label_path == str(tmp_path / "masks/a.png")


def test_objects_are_numbered_in_a_file_or_masks_in_a_folder(tmp_path: Path) -> None:
    folder = write(
        tmp_path, "images/a.png", "images/b.png", "objects/a.png", "objects/b/1.png", "objects/b/2.png", "labels/b.png"
    )
    first, second = pictures.read(folder).entries
    assert first.label_path == first.instances_path == str(folder / "objects/a.png")
    assert (second.label_path, second.instances_path) == (str(folder / "labels/b.png"), str(folder / "objects/b"))


def test_what_has_no_partner_is_kept_for_the_check(tmp_path: Path) -> None:
    first, second = pictures.read(write(tmp_path, "images/a.png", "labels/b.png")).entries
    assert (first.label_path, second.image_paths) == (None, ())


def test_test_cases_may_have_labels_or_not(tmp_path: Path) -> None:
    folder = write(
        tmp_path, "images/a.png", "labels/a.png", "test/images/b.png", "test/images/c.png", "test/labels/c.png"
    )
    entries = pictures.read(folder).entries
    assert [(entry.case_id, entry.split, entry.label_path is None) for entry in entries] == [
        ("a", "train", False),
        ("b", "test", True),
        ("c", "test", False),
    ]


def test_names_may_be_given(tmp_path: Path) -> None:
    content = {"labels": {"background": 0, "nucleus": 1}, "channels": ["red"], "measures": ["object_ap"]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    folder = write(tmp_path, "images/a.png", "labels/a.png")
    info = open_source(str(folder), tmp_path / "files").info
    assert (info.labels, info.channels, info.measures) == (content["labels"], ("red",), ("object_ap",))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "images/a.png", "images/a.tif", "labels/a.png")
    with pytest.raises(ValueError, match=r"a\.tif: .*a\.png has the same name"):
        pictures.read(folder)


@pytest.mark.parametrize("names", [["images/a.png"], ["images/a.nii", "labels/a.nii"], ["labels/a.png"]])
def test_other_folders_are_not_of_pictures(tmp_path: Path, names: list[str]) -> None:
    assert not pictures.matches(write(tmp_path, *names))
