"""The file `dataset.json` that Decathlon and nnU-Net folders both have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ENDINGS = (".nii.gz", ".nii")


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


def case_id_of(path: Path | str) -> str:
    """File name without folder and NIfTI ending."""
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
