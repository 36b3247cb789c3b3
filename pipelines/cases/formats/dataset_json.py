"""The file `dataset.json` of a folder, and what several forms of it have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.cases.case import DatasetInfo, split_off_ignore
from pipelines.cases.nifti import NIFTI_SUFFIXES
from pipelines.cases.raster import SUFFIXES

ENDINGS = (*NIFTI_SUFFIXES, *SUFFIXES)


def has_dataset_json(folder: Path | str) -> bool:
    """Whether the folder holds a `dataset.json`."""
    return (Path(folder) / "dataset.json").is_file()


def read_dataset_json(folder: Path | str) -> dict[str, Any]:
    """Read `dataset.json` of a folder.

    Raises:
        ValueError: it is not a JSON object.
    """
    path = Path(folder) / "dataset.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); correct the file") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; a JSON object with named keys is needed")
    return content


def require_keys(content: dict[str, Any], keys: tuple[str, ...], path: str) -> None:
    """Check that all keys are there.

    Raises:
        ValueError: some are not; the message lists them and those present.
    """
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"{path}: keys {missing} are missing; needed {list(keys)}, found {sorted(content)}")


def declared_num_training(content: dict[str, Any], path: str) -> int | None:
    """Number of training cases that the file declares; None where it does not.

    Raises:
        ValueError: it is no whole number.
    """
    number = content.get("numTraining")
    if number is not None and not isinstance(number, int):
        raise ValueError(f"{path}: `numTraining` is {number!r}; it must be the number of training cases: correct it")
    return number


def declared_measures(content: dict[str, Any], path: str) -> tuple[str, ...]:
    """Measures that the data set asks for beside those of every data set.

    Raises:
        ValueError: `measures` is no list of names.
    """
    measures = content.get("measures", [])
    if not isinstance(measures, list) or not all(isinstance(name, str) for name in measures):
        raise ValueError(f'{path}: `measures` is {measures!r}; the form is ["object_ap", "aggregated_jaccard"]')
    return tuple(measures)


def described(content: dict[str, Any], name: str, path: str) -> DatasetInfo:
    """What `labels`, `channels`, `measures` and `description` say; each may be left out.

    Args:
        content: of the file.
        name: of the data set.
        path: of the file, for messages.

    Raises:
        ValueError: one of them has another form.
    """
    try:
        labels = {str(label): int(value) for label, value in content.get("labels", {}).items()}
        channels = tuple(str(channel) for channel in content.get("channels", []))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: {error}; the form is {{"labels": {{"background": 0, "liver": 1}}, "channels": ["T2"]}}'
        ) from error
    classes, ignore_label = split_off_ignore(labels)
    description = str(content.get("description", ""))
    return DatasetInfo(name, channels, classes, ignore_label, description, declared_measures(content, path))


def case_id_of(path: Path | str) -> str:
    """File name without folder and ending."""
    name = Path(path).name
    for ending in ENDINGS:
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def ordered_names(names: dict[str, Any], path: str, key: str) -> tuple[str, ...]:
    """Values of {"0": name, "1": name, ...} in the order of their indices.

    Raises:
        ValueError: the indices are not 0, 1, 2, ...
    """
    if sorted(names) != sorted(str(index) for index in range(len(names))):
        raise ValueError(f'{path}: `{key}` has the indices {sorted(names)}; they must be "0", "1", ... without a gap')
    return tuple(str(names[str(index)]) for index in range(len(names)))
