"""What was annotated of a case: its label map, and its objects one by one where they are known.

Objects are numbered from 1, 0 is what belongs to none. They come as one file of numbers, or as a folder with one mask
file an object (nuclei of the 2018 Data Science Bowl), numbered in the order of the files' names. A case whose objects
are all that there is (`label_path` is `instances_path`) has one class: what belongs to any object.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipelines.cases.case import Case, RawEntry
from pipelines.cases.nifti import NIFTI_SUFFIXES, NiftiFile, read_file, read_label
from pipelines.cases.raster import SUFFIXES


def read_case_label(case: Case) -> tuple[np.ndarray, tuple[float, float, float]]:
    """The label map of a case that has one: ((Z, Y, X) int16, spacing (z, y, x) in mm).

    Raises:
        ValueError: a file cannot be read, or holds no label map.
    """
    assert case.label_path is not None, case.case_id
    if not is_of_objects(case):
        return read_label(case.label_path)
    file = read_label_file(case)
    return file.array[0].astype(np.int16), file.spacing_mm


def read_case_objects(case: Case) -> np.ndarray | None:
    """Number of the object of each voxel, (Z, Y, X) integers; None where the objects of a case are not known.

    Raises:
        ValueError: a file cannot be read, or holds no objects.
    """
    return None if case.instances_path is None else read_objects(case.instances_path).array[0]


def is_of_objects(entry: Case | RawEntry) -> bool:
    """Whether the label map is made of the objects."""
    return entry.label_path is not None and entry.label_path == entry.instances_path


def read_label_file(entry: Case | RawEntry) -> NiftiFile:
    """The file of the label map, or what stands for it where the label map is made of the objects."""
    assert entry.label_path is not None, entry.case_id
    if not is_of_objects(entry):
        return read_file(entry.label_path, is_label=True)
    objects = read_objects(entry.label_path)
    return replace(objects, array=(objects.array > 0).astype(np.uint8))


def read_objects(path: Path | str) -> NiftiFile:
    """Read objects: a file of numbers, or a folder with one mask file an object, in which what is not 0 is the object.

    Returns:
        (1, Z, Y, X) integers; of a folder the digest is that of the digests of its files.

    Raises:
        ValueError: a file cannot be read, has more than one channel or values that are no whole numbers from 0; or
            masks of a folder differ in shape or overlap, or there are none.
    """
    if not Path(path).is_dir():
        file = read_file(path, is_label=True)
        _check_is_map(path, file)
        numbers = file.array.astype(np.int32)
        if numbers.min() < 0 or not np.array_equal(numbers, file.array):
            raise ValueError(f"{path}: object numbers that are not whole numbers from 0; number the objects 1, 2, 3, …")
        return replace(file, array=numbers)
    names = sorted(item.name for item in Path(path).iterdir() if _is_mask(item))
    if not names:
        raise ValueError(f"{path}: no mask file; give an image without objects a picture of zeros in place of a folder")
    first: NiftiFile | None = None
    numbers = np.zeros(0, np.int32)
    digests = []
    for number, name in enumerate(names, start=1):
        file = read_file(Path(path, name), is_label=True)
        _check_is_map(Path(path, name), file)
        if first is None:
            first, numbers = file, np.zeros(file.array.shape, np.int32)
        is_inside = file.array != 0
        if is_inside.shape != numbers.shape:
            raise ValueError(
                f"{Path(path, name)}: shape (z, y, x) {file.shape}, but {names[0]} beside it has {first.shape}; all "
                "masks of an image have its size: save them again"
            )
        if numbers[is_inside].any():
            other = names[int(numbers[is_inside].max()) - 1]
            raise ValueError(f"{Path(path, name)}: overlaps {other}; a pixel belongs to one object: cut one of the two")
        numbers[is_inside] = number
        digests.append(file.digest)
    assert first is not None
    return replace(first, array=numbers, digest=hashlib.sha256("\n".join(digests).encode()).hexdigest())


def _is_mask(item: Path) -> bool:
    return item.name[0] != "." and item.name.lower().endswith((*SUFFIXES, *NIFTI_SUFFIXES))


def _check_is_map(path: Path | str, file: NiftiFile) -> None:
    if len(file.array) != 1:
        raise ValueError(f"{path}: {len(file.array)} channels; save one map of numbers")
