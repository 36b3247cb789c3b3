"""What a case and a data set are, before and after their files have been looked at.

Axes: an image in memory is (C, Z, Y, X), a label map (Z, Y, X); shapes and spacings stand in the order z, y, x.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.atomic_files import atomic_path, write_text

IGNORE_NAME = "ignore"


@dataclass(frozen=True)
class DatasetInfo:
    """What the images and the label values of a data set mean.

    Attributes:
        name: of the data set.
        channels: name of each channel, in order.
        labels: class name to value: 0 background, then consecutive; the ignore label is not in it.
        ignore_label: value of voxels that nobody annotated, one above the largest class; None where there is none.
        description: free text.
        measures: what to score beside the measures of every data set, keys of
            `pipelines.evaluation.declared_measures`.
    """

    name: str
    channels: tuple[str, ...]
    labels: dict[str, int]
    ignore_label: int | None = None
    description: str = ""
    measures: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawEntry:
    """A case as a source lists it; nothing has been opened yet.

    Attributes:
        case_id: unique in the data set.
        image_paths: one file a channel, or one file with all channels on its last axis; empty where a label has none.
        label_path: None where the source lists none.
        patient: None where the source does not say; then each case is a patient.
        split: "train" or "test".
        fold: None where the source does not say.
        instances_path: objects one by one (`pipelines.cases.annotation`); None where they are not known, `label_path`
            where they are all that there is.
    """

    case_id: str
    image_paths: tuple[str, ...]
    label_path: str | None
    patient: str | None
    split: str
    fold: int | None
    instances_path: str | None = None


@dataclass(frozen=True)
class RawDataset:
    """A data set as its source describes it.

    `info.channels` and `info.labels` are empty where the source does not name them; they are then found in the files.
    `num_training` is how many training cases the source says it has, None where it does not say.
    """

    info: DatasetInfo
    entries: list[RawEntry]
    num_training: int | None = None


@dataclass(frozen=True)
class Case:
    """One sound case: where its files are, and what they hold.

    Attributes:
        case_id: unique in the data set.
        image_paths: one file a channel, or one file with all channels.
        label_path: None for a test case without reference.
        patient: cases of one patient are never on both sides of a split.
        split: "train" or "test".
        fold: the fold in which a training case is held out; None for a test case.
        digest: sha256 over the bytes of the image files, the label file and the objects.
        shape: (z, y, x) voxels.
        spacing_mm: (z, y, x).
        affine: 16 numbers, row by row, of the first image file as stored (its own axes x, y, z).
        instances_path: objects one by one (`pipelines.cases.annotation`); None where they are not known.
    """

    case_id: str
    image_paths: tuple[str, ...]
    label_path: str | None
    patient: str
    split: str
    fold: int | None
    digest: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[float, ...]
    instances_path: str | None = None


def split_off_ignore(labels: dict[str, int]) -> tuple[dict[str, int], int | None]:
    """Separate the label named "ignore" from the classes: (classes, ignore value or None)."""
    classes = {name: value for name, value in labels.items() if name != IGNORE_NAME}
    return classes, labels.get(IGNORE_NAME)


def write_cases(path: Path | str, cases: Sequence[Case]) -> None:
    """Write one row a case to a Parquet file, columns named as the attributes of `Case`.

    `instances_path` is a column only where a case has objects.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    objects = [("instances_path", pa.string())] if any(case.instances_path for case in cases) else []
    schema = pa.schema(
        [
            ("case_id", pa.string()),
            ("image_paths", pa.list_(pa.string())),
            ("label_path", pa.string()),
            ("patient", pa.string()),
            ("split", pa.string()),
            ("fold", pa.int64()),
            ("digest", pa.string()),
            ("shape", pa.list_(pa.int64())),
            ("spacing_mm", pa.list_(pa.float64())),
            ("affine", pa.list_(pa.float64())),
            *objects,
        ]
    )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(case) for case in cases], schema=schema), temporary)


def read_cases(path: Path | str) -> list[Case]:
    """Read what `write_cases` wrote."""
    import pyarrow.parquet as pq

    return [_case_of_row(row) for row in pq.read_table(path).to_pylist()]


def _case_of_row(row: dict[str, Any]) -> Case:
    for column in ("image_paths", "shape", "spacing_mm", "affine"):
        row[column] = tuple(row[column])
    return Case(**row)


def write_info(path: Path | str, info: DatasetInfo) -> None:
    """Write `info` as JSON, keys named as the attributes of `DatasetInfo`; without `measures` where there are none."""
    values = asdict(info)
    if not info.measures:
        del values["measures"]
    write_text(path, json.dumps(values, indent=2) + "\n")


def read_info(path: Path | str) -> DatasetInfo:
    """Read what `write_info` wrote."""
    info = DatasetInfo(**json.loads(Path(path).read_text(encoding="utf-8")))
    return replace(info, channels=tuple(info.channels), measures=tuple(info.measures))
