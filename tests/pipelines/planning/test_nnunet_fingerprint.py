from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.planning.nnunet_fingerprint import read_nnunet_fingerprint
from tests.nnunet_data import DATA


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in (content | values).items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def test_the_two_files_give_fingerprint_labels_and_number_of_cases(tmp_path: Path) -> None:
    fingerprint, info, num_cases = read_nnunet_fingerprint(DATA["BraTSlike"].write_nnunet(tmp_path))
    assert num_cases == len(fingerprint.case_ids) == 484
    assert fingerprint.spacings_mm[-1] == (1.0, 1.0, 1.0)
    assert fingerprint.shapes_after_crop[-1] == (138, 170, 138)
    assert fingerprint.median_relative_size_after_cropping == 0.35
    assert fingerprint.intensity[3]["percentile_99_5"] == 6.0
    assert info.channels == ("MRI",) * 4
    assert (len(info.labels), info.ignore_label) == (4, None)


def test_old_names_regions_and_the_ignore_label_are_understood(tmp_path: Path) -> None:
    folder = DATA["Hippo"].write_nnunet(tmp_path)
    labels = {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}
    change(folder / "dataset.json", labels=labels, channel_names=None, modality={"0": "CT"})
    _, info, _ = read_nnunet_fingerprint(folder)
    assert (info.channels, tuple(info.labels), info.ignore_label) == (("CT",), ("background", "whole", "core"), 3)


def test_intensities_may_be_missing(tmp_path: Path) -> None:
    folder = DATA["Hippo"].write_nnunet(tmp_path)
    change(folder / "dataset_fingerprint.json", foreground_intensity_properties_per_channel=None)
    assert read_nnunet_fingerprint(folder)[0].intensity == ({},)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = DATA["Hippo"].write_nnunet(tmp_path)
    (folder / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"dataset\.json: not there; nnU-Net's"):
        read_nnunet_fingerprint(folder)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("dataset_fingerprint.json", {"spacings": None}, r"keys \['spacings'\] are missing"),
        (
            "dataset_fingerprint.json",
            {"spacings": [[1, 1, 1]]},
            r"1 spacings, 260 shapes and intensities of 1 channels do not go",
        ),
        ("dataset_fingerprint.json", {"spacings": [], "shapes_after_crop": []}, r"0 spacings, 0 shapes"),
        ("dataset.json", {"numTraining": None}, r"keys \['numTraining'\] are missing"),
        (
            "dataset.json",
            {"channel_names": {"0": "CT", "1": "PET"}},
            r"do not go with each other and the 2 channels of",
        ),
    ],
)
def test_files_that_do_not_go_together_are_refused(
    tmp_path: Path, file: str, values: dict[str, Any], message: str
) -> None:
    folder = DATA["Hippo"].write_nnunet(tmp_path)
    change(folder / file, **values)
    with pytest.raises(ValueError, match=message):
        read_nnunet_fingerprint(folder)


def test_text_that_is_no_json_is_told(tmp_path: Path) -> None:
    folder = DATA["Hippo"].write_nnunet(tmp_path)
    (folder / "dataset_fingerprint.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"dataset_fingerprint\.json: not valid JSON"):
        read_nnunet_fingerprint(folder)
