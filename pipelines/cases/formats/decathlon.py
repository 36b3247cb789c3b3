"""Medical Segmentation Decathlon layout: a `dataset.json` that lists pairs of image and label.

    dataset.json    `labels` {"0": "background", ...}, `modality` {"0": "MRI", ...},
                    `training` [{"image": path, "label": path}, ...], `test` [path, ...]

Several channels are the last axis of a 4D image. Where `labelsTs` holds a file of a test image's name, it is its label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry, split_off_ignore
from pipelines.cases.formats.dataset_json import (
    case_id_of,
    declared_measures,
    declared_num_training,
    has_dataset_json,
    ordered_names,
    read_dataset_json,
    require_keys,
)


def matches(path: Path | str) -> bool:
    """Whether the folder has a `dataset.json` that lists training pairs."""
    if not has_dataset_json(path):
        return False
    content = read_dataset_json(path)
    return "training" in content and "file_ending" not in content


def read(path: Path | str) -> RawDataset:
    """Read the list of cases; no image is opened.

    Raises:
        ValueError: `dataset.json` lacks a key or holds something of another form.
    """
    folder = str(path)
    where = str(Path(folder, "dataset.json"))
    content = read_dataset_json(folder)
    require_keys(content, ("labels", "modality", "training"), where)
    classes, ignore_label = split_off_ignore(_labels(content["labels"], where))
    info = DatasetInfo(
        name=str(content.get("name", Path(folder).name)),
        channels=ordered_names(content["modality"], where, "modality"),
        labels=classes,
        ignore_label=ignore_label,
        description=str(content.get("description", "")),
        measures=declared_measures(content, where),
    )
    entries = [_training_entry(folder, pair, where) for pair in content["training"]]
    entries += [_test_entry(folder, listed) for listed in content.get("test", [])]
    return RawDataset(info, entries, declared_num_training(content, where))


def _labels(listed: dict[str, Any], where: str) -> dict[str, int]:
    try:
        return {str(name): int(value) for value, name in listed.items()}
    except (AttributeError, ValueError):
        raise ValueError(
            f'{where}: `labels` is {listed}; the Decathlon form is {{"0": "background", "1": "liver"}}, value to name'
        ) from None


def _training_entry(folder: str, pair: Any, where: str) -> RawEntry:
    if not isinstance(pair, dict) or "image" not in pair:
        raise ValueError(f'{where}: `training` holds {pair!r}; each item is {{"image": path, "label": path}}')
    label = pair.get("label")
    return RawEntry(
        case_id=case_id_of(pair["image"]),
        image_paths=(_inside(folder, pair["image"]),),
        label_path=_inside(folder, label) if label else None,
        patient=None,
        split="train",
        fold=None,
    )


def _test_entry(folder: str, listed: str | dict[str, str]) -> RawEntry:
    image = listed["image"] if isinstance(listed, dict) else listed
    label = Path(folder, "labelsTs", Path(image).name)
    return RawEntry(
        case_id=case_id_of(image),
        image_paths=(_inside(folder, image),),
        label_path=str(label) if label.is_file() else None,
        patient=None,
        split="test",
        fold=None,
    )


def _inside(folder: str, listed: str) -> str:
    return str(Path(folder, listed))
