"""The fingerprint of a data set: what planning needs to know of its training cases.

Follows nnU-Net (Isensee et al., 2021, doi 10.1038/s41592-020-01008-z).

Differs:
    - Intensity statistics are of all foreground voxels. nnU-Net draws 100 million of a channel with replacement,
      however many there are. Percentiles are exact unless a channel has more than 2**20 different values; then each
      is within 2**-12 of its value, mostly far nearer: `percentile_error` says how near (see `intensity.ValueCounts`).
    - The ignore label is no foreground. nnU-Net counts its voxels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.atomic_files import atomic_path, write_text
from pipelines.fingerprint.geometry import blocks, bounding_box, box_shape
from pipelines.fingerprint.intensity import Moments, ValueCounts, statistics
from pipelines.fingerprint.labels import count_voxels, foreground_mask

if TYPE_CHECKING:
    from pipelines.cases.case import Case, DatasetInfo

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Fingerprint:
    """What is known of the training cases; sequences over cases have the order of `case_ids`.

    Attributes:
        case_ids: the training cases.
        spacings_mm: spacing of each case, z y x.
        shapes_after_crop: shape of each case's nonzero box, z y x.
        intensity: for each channel the keys of `intensity.STATISTICS`, over the foreground voxels of all cases.
        median_relative_size_after_cropping: median over cases of voxels in the box / voxels of the image.
        label_voxels: voxels of each class over all cases.
        case_rows: one flat row per case for `fingerprint.parquet`; not part of the JSON.
    """

    case_ids: tuple[str, ...]
    spacings_mm: tuple[Triple, ...]
    shapes_after_crop: tuple[tuple[int, int, int], ...]
    intensity: tuple[dict[str, float], ...]
    median_relative_size_after_cropping: float
    label_voxels: dict[str, int]
    case_rows: tuple[dict[str, Any], ...] = field(default=(), compare=False, repr=False)

    def to_json(self) -> str:
        """Everything but `case_rows`."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "case_rows"}
        return json.dumps(values, indent=2, sort_keys=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """Inverse of `to_json`."""
        values = json.loads(text)
        return cls(
            case_ids=tuple(values["case_ids"]),
            spacings_mm=tuple(tuple(item) for item in values["spacings_mm"]),
            shapes_after_crop=tuple(tuple(item) for item in values["shapes_after_crop"]),
            intensity=tuple(values["intensity"]),
            median_relative_size_after_cropping=values["median_relative_size_after_cropping"],
            label_voxels=values["label_voxels"],
        )


@dataclass(frozen=True)
class _Measured:
    """What a case adds; `values` has one item a channel, and so has `moments`."""

    row: dict[str, Any]
    spacing_mm: Triple
    shape_after_crop: tuple[int, int, int]
    relative_size: float
    label_voxels: dict[str, int]
    moments: tuple[Moments, ...]
    values: tuple[ValueCounts, ...]


def take_fingerprint(cases: Sequence[Case], info: DatasetInfo) -> Fingerprint:
    """Measure the training cases, each in a process of its own where there are several processors.

    The result depends neither on their number nor on the order in which they finish. However many cases there are, no
    more are in memory than a few for each process.

    Args:
        cases: training cases only, each with a label.
        info: of the data set.

    Raises:
        ValueError: no cases, a case without a label or with intensities that are not finite, or no foreground voxel in
            any of them.
    """
    from pipelines.ray_session.map_cases import each_case

    if not cases:
        raise ValueError(f"data set {info.name}: no training case; give at least one image with a label")
    for case in cases:
        if case.label_path is None:
            raise ValueError(
                f"data set {info.name}: training case {case.case_id} has no label; "
                "add its label file or move the case to the test split"
            )
    measure = partial(_measure_case, channels=tuple(info.channels), labels=info.labels, ignore_label=info.ignore_label)
    values = [ValueCounts.none() for _ in info.channels]
    measured: dict[int, _Measured] = {}
    for index, item in each_case(measure, cases, desc="fingerprint", imports=("pipelines.cases.annotation",)):
        values = [value.merged(of_case) for value, of_case in zip(values, item.values, strict=True)]
        # What is kept of a case is a few numbers.
        measured[index] = replace(item, values=())
    ordered = [measured[index] for index in range(len(cases))]
    moments = [reduce(Moments.merged, parts) for parts in zip(*(item.moments for item in ordered), strict=True)]
    if not any(channel.count for channel in moments):
        raise ValueError(
            f"data set {info.name}: no foreground voxel in any of the {len(cases)} training cases; "
            f"labels are {info.labels}, so check the label files"
        )
    return Fingerprint(
        case_ids=tuple(case.case_id for case in cases),
        spacings_mm=tuple(item.spacing_mm for item in ordered),
        shapes_after_crop=tuple(item.shape_after_crop for item in ordered),
        intensity=tuple(map(statistics, moments, values)),
        median_relative_size_after_cropping=float(np.median([item.relative_size for item in ordered])),
        label_voxels={name: sum(item.label_voxels[name] for item in ordered) for name in info.labels},
        case_rows=tuple(item.row for item in ordered),
    )


def _measure_case(case: Case, channels: tuple[str, ...], labels: dict[str, int], ignore_label: int | None) -> _Measured:
    from pipelines.cases.annotation import read_case_label
    from pipelines.cases.nifti import read_image

    image = read_image(case.image_paths)
    label, _ = read_case_label(case)
    label_voxels = count_voxels(label, labels)
    box = bounding_box(image.array)
    moments, values = _foreground(case, image.array[(slice(None), *box)], label[box], channels, ignore_label)
    spacing_mm = (float(image.spacing_mm[0]), float(image.spacing_mm[1]), float(image.spacing_mm[2]))
    shape_after_crop = box_shape(box)
    relative_size = math.prod(shape_after_crop) / label.size
    row: dict[str, Any] = {"case_id": case.case_id}
    row |= {f"spacing_{axis}_mm": spacing for axis, spacing in zip("zyx", spacing_mm, strict=True)}
    row |= {f"shape_{axis}": int(side) for axis, side in zip("zyx", label.shape, strict=True)}
    row |= {f"shape_after_crop_{axis}": side for axis, side in zip("zyx", shape_after_crop, strict=True)}
    row |= {"relative_size_after_cropping": relative_size}
    row |= {f"voxels_{name}": count for name, count in label_voxels.items()}
    for name, figures in zip(channels, map(statistics, moments, values), strict=True):
        row |= {f"{name}_{key}": figure for key, figure in figures.items()}
    return _Measured(row, spacing_mm, shape_after_crop, relative_size, label_voxels, tuple(moments), tuple(values))


def _foreground(
    case: Case, image: np.ndarray, label: np.ndarray, channels: tuple[str, ...], ignore_label: int | None
) -> tuple[list[Moments], list[ValueCounts]]:
    """Look at the foreground of each channel of an image (C, Z, Y, X), block by block."""
    moments, values = [Moments() for _ in channels], [ValueCounts.none() for _ in channels]
    for planes in blocks(label.shape):
        foreground = foreground_mask(label[planes], ignore_label)
        for index, (name, channel) in enumerate(zip(channels, image, strict=True)):
            inside = channel[planes][foreground]
            if not np.isfinite(inside).all():
                raise ValueError(
                    f"case {case.case_id}: channel {name} ({', '.join(case.image_paths)}) has foreground voxels that "
                    "are NaN or infinite; replace them by finite numbers, or leave the case out"
                )
            moments[index] = moments[index].merged(Moments.of(inside))
            values[index] = values[index].merged(ValueCounts.of(inside))
    return moments, values


def write_fingerprint(folder: Path | str, fingerprint: Fingerprint) -> None:
    """Write `fingerprint.json` and, one row per case, `fingerprint.parquet` into `folder`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    write_text(folder / "fingerprint.json", fingerprint.to_json())
    with atomic_path(folder / "fingerprint.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(list(fingerprint.case_rows)), temporary)


def read_fingerprint(path: Path | str) -> Fingerprint:
    """Read a `fingerprint.json`."""
    return Fingerprint.from_json(Path(path).read_text(encoding="utf-8"))
