"""A table of cases in CSV, for files that lie in any folder.

    case_id     unique
    image       path; several channels: joined with `;`, or columns image_0, image_1, ...
    label       path; may be empty for a test case
    instances   optional, in place of label or beside it: a file of object numbers, or a folder with one mask an object
    patient     optional; cases of one patient are never on both sides of a split
    split       optional: train (also when empty) or test
    fold        optional: 0, 1, ... for every training case

Paths are relative to the folder of the table. `NAME.json` beside `NAME.csv` may name the classes and channels:
`{"labels": {"background": 0, "liver": 1}, "channels": ["T2"]}`; otherwise they are found in the files. It may also ask
for `measures` beside those of every data set.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

from pipelines.cases.case import DatasetInfo, RawDataset, RawEntry
from pipelines.cases.formats.dataset_json import described

_SPLITS = ("train", "test")


def matches(path: Path | str) -> bool:
    """Whether the path is a CSV file."""
    return Path(path).suffix.lower() == ".csv" and Path(path).is_file()


def read(path: Path | str) -> RawDataset:
    """Read the table; no image is opened.

    Raises:
        ValueError: a column is missing, or a row holds an unknown split, a fold that is no number, or no image.
    """
    # Excel writes a byte order mark, which would become part of the first column's name.
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        image_columns = _image_columns(columns, str(path))
        entries = [_entry(row, image_columns, f"{path}, line {reader.line_num}", str(path)) for row in reader]
    return RawDataset(_info(Path(path)), entries)


def _image_columns(columns: list[str], path: str) -> list[str]:
    numbered = [f"image_{index}" for index in range(len(columns)) if f"image_{index}" in columns]
    image_columns = ["image"] if "image" in columns else numbered
    missing = [] if "case_id" in columns else ["case_id"]
    if "label" not in columns and "instances" not in columns:
        missing.append("label")
    if not image_columns:
        missing.append("image (or image_0, image_1, ...)")
    if missing:
        raise ValueError(
            f"{path}: columns {missing} are missing; found {columns}, needed case_id, image (or image_0, image_1, "
            "...), label or instances; optional patient, split, fold; columns are separated by commas"
        )
    return image_columns


def _entry(row: dict[str, str | None], image_columns: list[str], where: str, path: str) -> RawEntry:
    values = {column: (value or "").strip() for column, value in row.items() if isinstance(column, str)}
    split = values.get("split") or "train"
    if split not in _SPLITS:
        raise ValueError(f"{where}: split {split!r}; it must be one of {list(_SPLITS)}, or empty for train")
    fold = values.get("fold", "")
    if fold and not fold.isdecimal():
        raise ValueError(f"{where}: fold {fold!r}; it must be a whole number from 0")
    images = [image.strip() for column in image_columns for image in values[column].split(";") if image.strip()]
    if not values["case_id"] or not images:
        raise ValueError(f"{where}: case_id {values['case_id']!r} with images {images}; each row needs both")
    folder = Path(path).parent
    label, instances = (str(folder / values[key]) if values.get(key) else None for key in ("label", "instances"))
    return RawEntry(
        case_id=values["case_id"],
        image_paths=tuple(str(folder / image) for image in images),
        label_path=label or instances,
        patient=values.get("patient") or None,
        split=split,
        fold=int(fold) if fold and split == "train" else None,
        instances_path=instances,
    )


def _info(path: Path) -> DatasetInfo:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return DatasetInfo(path.stem, (), {})
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{sidecar}: not valid JSON ({error}); correct the file") from error
    if not isinstance(content, dict):
        raise ValueError(f"{sidecar}: holds a {type(content).__name__}; a JSON object with named keys is needed")
    return described(content, path.stem, str(sidecar))
