"""nnU-Net v2 raw layout: `DatasetXXX_Name` with one file a channel.

    dataset.json    `channel_names` {"0": name, ...}, `labels` {name: value}, `file_ending`;
                    optionally `dataset` {case: {"images": [path, ...], "label": path}} in place of the folders
    imagesTr/       {case}_0000{ending}, {case}_0001{ending}, ...
    labelsTr/       {case}{ending}
    imagesTs/       optional, with labelsTs/ where test labels are known

Source of the rule: nnunetv2 2.8.1, `dataset_conversion` documentation.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry, split_off_ignore
from pipelines.cases.formats.dataset_json import (
    ENDINGS,
    declared_measures,
    declared_num_training,
    has_dataset_json,
    ordered_names,
    read_dataset_json,
    require_keys,
)


def matches(path: Path | str) -> bool:
    """Whether the folder has a `dataset.json` in the form of nnU-Net v2."""
    if not has_dataset_json(path):
        return False
    content = read_dataset_json(path)
    return "file_ending" in content or ("channel_names" in content and "training" not in content)


def read(path: Path | str) -> RawDataset:
    """Read the list of cases; no image is opened. Hidden files are passed over.

    Raises:
        ValueError: `dataset.json` lacks a key, names regions or a file ending that is not known; a folder is missing;
            or a file name lacks the channel number.
    """
    folder = str(path)
    where = str(Path(folder, "dataset.json"))
    content = read_dataset_json(folder)
    channels_key = "channel_names" if "channel_names" in content else "modality"
    if channels_key == "modality" and "modality" not in content:
        require_keys(content, ("channel_names", "labels", "file_ending"), where)
    require_keys(content, ("labels", "file_ending"), where)
    ending = content["file_ending"]
    if ending not in ENDINGS:
        raise ValueError(f"{where}: `file_ending` is {ending!r}; only {list(ENDINGS)} are read: convert the images")
    classes, ignore_label = split_off_ignore(_labels(content["labels"], where))
    info = DatasetInfo(
        name=str(content.get("name", Path(folder).name)),
        channels=ordered_names(content[channels_key], where, channels_key),
        labels=classes,
        ignore_label=ignore_label,
        description=str(content.get("description", "")),
        measures=declared_measures(content, where),
    )
    num_training = declared_num_training(content, where)
    if "dataset" in content:
        return RawDataset(info, _listed_entries(folder, content["dataset"], where), num_training)
    entries = _folder_entries(folder, "imagesTr", "labelsTr", ending, "train")
    if (Path(folder) / "imagesTs").is_dir():
        entries += _folder_entries(folder, "imagesTs", "labelsTs", ending, "test")
    return RawDataset(info, entries, num_training)


def _labels(listed: dict[str, Any], where: str) -> dict[str, int]:
    for name, value in listed.items():
        if isinstance(value, list):
            raise ValueError(
                f"{where}: label {name!r} is the region {value}; regions are not supported yet: give each class "
                "one whole number"
            )
        if not isinstance(value, int):
            raise ValueError(
                f'{where}: label {name!r} is {value!r}; the nnU-Net form is {{"background": 0, "liver": 1}}'
            )
    return dict(listed)


def _listed_entries(folder: str, listed: dict[str, Any], where: str) -> list[RawEntry]:
    entries = []
    for case_id, files in listed.items():
        if not isinstance(files, dict) or "images" not in files:
            raise ValueError(
                f'{where}: `dataset` has {files!r} for case {case_id}; needed {{"images": [...], "label": ...}}'
            )
        label = files.get("label")
        images = tuple(_inside(folder, image) for image in files["images"])
        entries.append(RawEntry(case_id, images, _inside(folder, label) if label else None, None, "train", None))
    return entries


def _folder_entries(folder: str, images_name: str, labels_name: str, ending: str, split: str) -> list[RawEntry]:
    images_dir = Path(folder) / images_name
    labels_dir = Path(folder) / labels_name
    needed = [images_dir, labels_dir] if split == "train" else [images_dir]
    for needed_dir in needed:
        if not needed_dir.is_dir():
            raise ValueError(
                f"{needed_dir}: no such folder; nnU-Net's layout needs imagesTr/ and labelsTr/ beside dataset.json"
            )
    channels: dict[str, list[str]] = defaultdict(list)
    for name in _visible_files(images_dir, ending):
        stem = name.removesuffix(ending)
        if not re.search(r"_\d{4}$", stem):
            raise ValueError(
                f"{images_dir / name}: the name lacks the channel number; nnU-Net's names are like {stem}_0000{ending}"
            )
        channels[stem[:-5]].append(str(images_dir / name))
    labels = {
        name.removesuffix(ending): str(labels_dir / name)
        for name in (_visible_files(labels_dir, ending) if labels_dir.is_dir() else [])
    }
    return [
        RawEntry(case_id, tuple(channels.get(case_id, ())), labels.get(case_id), None, split, None)
        for case_id in sorted(channels.keys() | labels.keys())
    ]


def _visible_files(folder: Path, ending: str) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.name.endswith(ending) and item.name[0] != ".")


def _inside(folder: str, listed: str) -> str:
    return str(Path(folder, os.path.expandvars(listed)))
