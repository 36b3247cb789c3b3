from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.cases.formats import nnunet_raw


def write(folder: Path, files: list[str], **changes: Any) -> Path:
    content = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "liver": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content | changes))
    for name in ["imagesTr/x", "labelsTr/x", *files]:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return folder


FILES = [f"imagesTr/{case}_000{channel}.nii.gz" for case in ("a", "b_1") for channel in (0, 1)]
LABELS = ["labelsTr/a.nii.gz", "labelsTr/b_1.nii.gz"]


def test_one_file_a_channel(tmp_path: Path) -> None:
    strays = ["imagesTr/._a_0000.nii.gz", "imagesTr/.DS_Store", "labelsTr/._a.nii.gz", "labelsTr/notes.txt"]
    folder = write(tmp_path, [*FILES, *LABELS, *strays, "imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz"])
    raw = nnunet_raw.read(folder)
    assert nnunet_raw.matches(folder)
    assert raw.num_training == 2
    assert raw.info.channels == ("T1", "T2")
    assert raw.info.labels == {"background": 0, "liver": 1}
    assert [(entry.case_id, entry.split) for entry in raw.entries] == [("a", "train"), ("b_1", "train"), ("c", "test")]
    assert raw.entries[1].image_paths == tuple(str(folder / "imagesTr" / f"b_1_000{c}.nii.gz") for c in (0, 1))
    assert raw.entries[1].label_path == str(folder / "labelsTr" / "b_1.nii.gz")
    assert raw.entries[2].label_path is None


def test_pictures_may_be_its_files(tmp_path: Path) -> None:
    folder = write(tmp_path, ["imagesTr/a_0000.png", "labelsTr/a.png"], file_ending=".png", measures=["auc"])
    raw = nnunet_raw.read(folder)
    (entry,) = raw.entries
    assert entry.image_paths == (str(folder / "imagesTr" / "a_0000.png"),)
    assert entry.label_path == str(folder / "labelsTr" / "a.png")
    assert raw.info.measures == ("auc",)


def test_test_labels_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path, [*FILES, *LABELS, "imagesTs/c_0000.nii.gz", "labelsTs/c.nii.gz"])
    assert nnunet_raw.read(folder).entries[2].label_path == str(folder / "labelsTs" / "c.nii.gz")


def test_images_and_labels_without_partner_are_kept_for_the_check(tmp_path: Path) -> None:
    folder = write(tmp_path, ["imagesTr/a_0000.nii.gz", "labelsTr/b.nii.gz"])
    first, second = nnunet_raw.read(folder).entries
    assert (first.case_id, first.label_path) == ("a", None)
    assert (second.case_id, second.image_paths) == ("b", ())


def test_the_key_dataset_replaces_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    listed = {"a": {"images": ["x/a0.nii.gz", "$ELSEWHERE/a1.nii.gz"], "label": "x/al.nii.gz"}}
    (entry,) = nnunet_raw.read(write(tmp_path, [], dataset=listed)).entries
    assert entry.image_paths == (str(tmp_path / "x/a0.nii.gz"), "/elsewhere/a1.nii.gz")
    assert entry.label_path == str(tmp_path / "x/al.nii.gz")


def test_an_ignore_label_is_no_class(tmp_path: Path) -> None:
    info = nnunet_raw.read(write(tmp_path, FILES, labels={"background": 0, "a": 1, "ignore": 2})).info
    assert (info.labels, info.ignore_label) == ({"background": 0, "a": 1}, 2)


@pytest.mark.parametrize(
    ("files", "changes", "message"),
    [
        (
            [],
            {"labels": {"background": 0, "whole": [1, 2]}},
            r"'whole' is the region \[1, 2\]; regions are not supported",
        ),
        ([], {"labels": {"0": "background"}}, "label '0' is 'background'; the nnU-Net form is"),
        ([], {"file_ending": ".mha"}, "`file_ending` is '.mha'; only .* are read: convert the images"),
        ([], {"channel_names": {"0": "T1", "2": "T2"}}, "`channel_names` has the indices"),
        (["imagesTr/a.nii.gz"], {}, r"a.nii.gz: the name lacks the channel number; .* a_0000.nii.gz"),
        ([], {"dataset": {"a": ["x.nii"]}}, "`dataset` has .* for case a; needed"),
    ],
)
def test_a_wrong_form_is_refused(tmp_path: Path, files: list[str], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nnunet_raw.read(write(tmp_path, files, **changes))


@pytest.mark.parametrize("missing", ["imagesTr", "labelsTr"])
def test_a_missing_folder_is_named(tmp_path: Path, missing: str) -> None:
    folder = write(tmp_path, [])
    (folder / missing / "x").unlink()
    (folder / missing).rmdir()
    with pytest.raises(ValueError, match=rf"{missing}: no such folder; nnU-Net's layout needs imagesTr/ and labelsTr/"):
        nnunet_raw.read(folder)


def test_missing_keys_are_listed(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "T1"}, "labels": {}}')
    with pytest.raises(ValueError, match=r"keys \['file_ending'\] are missing"):
        nnunet_raw.read(tmp_path)
