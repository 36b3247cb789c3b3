"""Folders of pictures (`pipelines.cases.raster`), one case a picture, found by their names.

    images/CASE.png         grey or colour; any kind of picture
    labels/CASE.png         class numbers, or a mask of 0 and 255; `masks` is another name of this folder
    objects/CASE.png        in place of labels/ or beside it: object numbers,
    objects/CASE/*.png      or one mask file an object
    test/images/, ...       optional: test cases, with labels or without
    dataset.json            optional: `labels` {name: value}, `channels` [name, ...], `measures` [key, ...],
                            `description`

A label has the name of its image; the two may be of different kinds (a photograph as JPEG, its mask as PNG).
"""

from __future__ import annotations

from pathlib import Path

from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry
from pipelines.cases.formats.dataset_json import described, has_dataset_json, read_dataset_json
from pipelines.cases.raster import is_raster

_LABELS = ("labels", "masks")
_OBJECTS = "objects"


def matches(path: Path | str) -> bool:
    """Whether the folder has pictures in `images/`, and `labels/`, `masks/` or `objects/` beside it."""
    folder = Path(path)
    has_annotation = any((folder / name).is_dir() for name in (*_LABELS, _OBJECTS))
    return has_annotation and (folder / "images").is_dir() and any(map(is_raster, (folder / "images").iterdir()))


def read(path: Path | str) -> RawDataset:
    """Read the list of cases; no picture is opened. Hidden files and what is no picture are passed over.

    Raises:
        ValueError: two files of a folder have the same name but for their ending, or `dataset.json` has another form.
    """
    folder = Path(path)
    entries = _entries(folder, "train")
    if (folder / "test" / "images").is_dir():
        entries += _entries(folder / "test", "test")
    if not has_dataset_json(folder):
        return RawDataset(DatasetInfo(folder.name, (), {}), entries)
    return RawDataset(described(read_dataset_json(folder), folder.name, str(folder / "dataset.json")), entries)


def _entries(folder: Path, split: str) -> list[RawEntry]:
    images = _by_name(folder / "images")
    labels = {name: item for part in _LABELS for name, item in _by_name(folder / part).items()}
    objects = _by_name(folder / _OBJECTS)
    entries = []
    for case_id in sorted(images.keys() | labels.keys() | objects.keys()):
        instances = objects.get(case_id)
        entries.append(
            RawEntry(
                case_id=case_id,
                image_paths=(images[case_id],) if case_id in images else (),
                label_path=labels.get(case_id, instances),
                patient=None,
                split=split,
                fold=None,
                instances_path=instances,
            )
        )
    return entries


def _by_name(folder: Path) -> dict[str, str]:
    """Path of each picture or folder of masks by its name without ending; empty where there is no such folder."""
    found: dict[str, str] = {}
    for item in sorted(folder.iterdir()) if folder.is_dir() else ():
        if item.name[0] == "." or not (is_raster(item) or item.is_dir()):
            continue
        name = item.name if item.is_dir() else item.stem
        if name in found:
            raise ValueError(f"{item}: {found[name]} has the same name; a case has one file there: rename one of them")
        found[name] = str(item)
    return found
