"""nnU-Net's own fingerprint of a data set, read for planning (nnunetv2 2.8.1).

    dataset_fingerprint.json  `spacings`, `shapes_after_crop` (of each case, z y x),
                              `median_relative_size_after_cropping`,
                              `foreground_intensity_properties_per_channel` {"0": {mean, median, ...}, ...}, which no
                              size depends on, so it may be missing or empty
    dataset.json              `channel_names` (or `modality`), `labels`, `numTraining`

nnU-Net puts both into its folder of preprocessed data. The intensities are what nnU-Net measured: with the ignore label
as foreground.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.cases.case import DatasetInfo, split_off_ignore
from pipelines.cases.formats.dataset_json import ordered_names, read_dataset_json, require_keys
from pipelines.fingerprint.extract import Fingerprint

FILE = "dataset_fingerprint.json"
_KEYS = ("spacings", "shapes_after_crop", "median_relative_size_after_cropping")


def read_nnunet_fingerprint(folder: Path | str) -> tuple[Fingerprint, DatasetInfo, int]:
    """Read the two files of a folder.

    A region (a label that is a list of values) is numbered as a class would be: planning needs the number of labels.

    Returns:
        The fingerprint (cases are called by their number), channels and labels, and the number of training cases.

    Raises:
        ValueError: a file is missing or is no JSON, or a key is missing.
    """
    folder = Path(folder)
    path = folder / FILE
    for needed in (path, folder / "dataset.json"):
        if not needed.is_file():
            raise ValueError(f"{needed}: not there; nnU-Net's `plan_and_preprocess` leaves it beside its plans")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); let nnU-Net extract the fingerprint again") from error
    require_keys(values, _KEYS, str(path))
    content, where = read_dataset_json(folder), str(folder / "dataset.json")
    channels_key = "modality" if "modality" in content and "channel_names" not in content else "channel_names"
    require_keys(content, (channels_key, "labels", "numTraining"), where)
    classes, ignore_label = split_off_ignore(content["labels"])
    info = DatasetInfo(
        name=str(content.get("name", folder.resolve().name)),
        channels=ordered_names(content[channels_key], where, channels_key),
        labels={name: number for number, name in enumerate(classes)},
        ignore_label=ignore_label,
    )
    statistics = values.get("foreground_intensity_properties_per_channel") or {}
    num_cases, num_shapes = len(values["spacings"]), len(values["shapes_after_crop"])
    if not num_cases or num_cases != num_shapes or len(statistics) not in (0, len(info.channels)):
        raise ValueError(
            f"{path}: {num_cases} spacings, {num_shapes} shapes and intensities of {len(statistics)} channels do not "
            f"go with each other and the {len(info.channels)} channels of {where}; let nnU-Net extract the "
            "fingerprint again"
        )
    fingerprint = Fingerprint(
        case_ids=tuple(str(number) for number in range(num_cases)),
        spacings_mm=tuple((float(z), float(y), float(x)) for z, y, x in values["spacings"]),
        shapes_after_crop=tuple((int(z), int(y), int(x)) for z, y, x in values["shapes_after_crop"]),
        intensity=tuple(dict(statistics.get(str(channel), {})) for channel in range(len(info.channels))),
        median_relative_size_after_cropping=float(values["median_relative_size_after_cropping"]),
        label_voxels={},
    )
    return fingerprint, info, int(content["numTraining"])
