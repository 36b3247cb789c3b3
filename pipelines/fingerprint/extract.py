"""The fingerprint of a data set: what planning needs to know of its training cases.

Follows nnU-Net (Isensee et al., 2021, doi 10.1038/s41592-020-01008-z).

Differs:
    - Intensity statistics use every foreground voxel up to 10 million a channel, an even share per case, drawn without
      replacement. nnU-Net draws 100 million with replacement however few voxels there are.
    - The ignore label is no foreground. nnU-Net counts its voxels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.atomic_files import atomic_path, write_text
from pipelines.fingerprint.geometry import box_shape, nonzero_box
from pipelines.fingerprint.intensity import foreground_values, statistics
from pipelines.fingerprint.labels import count_voxels, foreground_mask

if TYPE_CHECKING:
    from pipelines.cases.case import Case, DatasetInfo

MAX_VALUES_PER_CHANNEL = 10_000_000
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Fingerprint:
    """What is known of the training cases; sequences over cases have the order of `case_ids`.

    Attributes:
        case_ids: the training cases.
        spacings_mm: spacing of each case, z y x.
        shapes_after_crop: shape of each case's nonzero box, z y x.
        intensity: for each channel the keys mean, median, std, min, max, percentile_00_5, percentile_99_5.
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
    row: dict[str, Any]
    spacing_mm: Triple
    shape_after_crop: tuple[int, int, int]
    relative_size: float
    label_voxels: dict[str, int]
    values: np.ndarray


def take_fingerprint(
    cases: Sequence[Case], info: DatasetInfo, max_values_per_channel: int = MAX_VALUES_PER_CHANNEL
) -> Fingerprint:
    """Measure the training cases.

    Args:
        cases: training cases only, each with a label.
        info: of the data set.
        max_values_per_channel: most intensities of a channel behind the statistics.

    Raises:
        ValueError: no cases, a case without a label, or no foreground voxel in any of them.
    """
    from pipelines.ray_session.map_cases import map_cases

    if not cases:
        raise ValueError(f"data set {info.name}: no training case; give at least one image with a label")
    for case in cases:
        if case.label_path is None:
            raise ValueError(
                f"data set {info.name}: training case {case.case_id} has no label; "
                "add its label file or move the case to the test split"
            )
    measure = partial(
        _measure_case,
        channels=tuple(info.channels),
        labels=info.labels,
        ignore_label=info.ignore_label,
        max_values=max(1, max_values_per_channel // len(cases)),
    )
    measured = map_cases(measure, list(cases), desc="fingerprint")
    values = np.concatenate([item.values for item in measured], axis=1)
    if not values.size:
        raise ValueError(
            f"data set {info.name}: no foreground voxel in any of the {len(cases)} training cases; "
            f"labels are {info.labels}, so check the label files"
        )
    return Fingerprint(
        case_ids=tuple(case.case_id for case in cases),
        spacings_mm=tuple(item.spacing_mm for item in measured),
        shapes_after_crop=tuple(item.shape_after_crop for item in measured),
        intensity=tuple(statistics(channel) for channel in values),
        median_relative_size_after_cropping=float(np.median([item.relative_size for item in measured])),
        label_voxels={name: sum(item.label_voxels[name] for item in measured) for name in info.labels},
        case_rows=tuple(item.row for item in measured),
    )


def _measure_case(
    case: Case, channels: tuple[str, ...], labels: dict[str, int], ignore_label: int | None, max_values: int
) -> _Measured:
    from pipelines.cases.nifti import read_image, read_label

    assert case.label_path is not None
    image = read_image(case.image_paths)
    label, _ = read_label(case.label_path)
    _, box = nonzero_box(image.array)
    cropped = image.array[(slice(None), *box)]
    foreground = foreground_mask(label[box], ignore_label)
    values = foreground_values(cropped, foreground, max_values, case.case_id)
    spacing_mm = (float(image.spacing_mm[0]), float(image.spacing_mm[1]), float(image.spacing_mm[2]))
    shape_after_crop = box_shape(box)
    relative_size = cropped[0].size / image.array[0].size
    label_voxels = count_voxels(label, labels)
    row: dict[str, Any] = {"case_id": case.case_id}
    row |= {f"spacing_{axis}_mm": spacing for axis, spacing in zip("zyx", spacing_mm, strict=True)}
    row |= {f"shape_{axis}": int(side) for axis, side in zip("zyx", image.array.shape[1:], strict=True)}
    row |= {f"shape_after_crop_{axis}": side for axis, side in zip("zyx", shape_after_crop, strict=True)}
    row |= {"relative_size_after_cropping": relative_size}
    row |= {f"voxels_{name}": count for name, count in label_voxels.items()}
    for index, channel in enumerate(channels):
        row |= {f"{channel}_{name}": value for name, value in statistics(values[index]).items()}
    return _Measured(row, spacing_mm, shape_after_crop, relative_size, label_voxels, values)


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
