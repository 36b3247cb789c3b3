"""One pass over the files of one case: its findings, its geometry, its digest, its figures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.cases.annotation import is_of_objects, read_label_file, read_objects
from pipelines.cases.case import RawEntry
from pipelines.cases.case_measures import ChannelMeasures, ClassMeasures, measure_channel, measure_classes
from pipelines.cases.finding import Finding
from pipelines.cases.nifti import NiftiFile, read_file

# A label half a voxel off is wrong at every border; a thousandth of a voxel is a header's rounding.
_CLEAR_SHIFT_VOXELS = 0.5
_TINY_SHIFT_VOXELS = 1e-3
_CLEAR_SPACING_DIFFERENCE = 1e-2
_TINY_SPACING_DIFFERENCE = 1e-5
_MAX_MEASURED_VALUE = np.iinfo(np.int16).max
_NUM_VALUES_SHOWN = 10


@dataclass(frozen=True)
class CaseFacts:
    """What one pass over the files of a case found.

    Where a file could not be read, digests are "" and the numbers 0 or empty.

    Attributes:
        findings: of this case alone.
        digest: sha256 over the bytes of the image files, the label file and the objects.
        image_content: digest of the voxels of all image files, whatever header and compression they have.
        label_content: digest of the voxels of the label map.
        num_channels: of all image files together.
        shape: (z, y, x) voxels.
        spacing_mm: (z, y, x).
        affine: 16 numbers of the first image file as stored.
        axis_codes: direction of each stored axis of the first image file, such as "LPS".
        label_values: the whole numbers that occur in the label map, ascending.
        classes: one for each class in the label map; empty where its values are not sound.
        channels: one for each channel; None for one with voxels that are not finite.
    """

    findings: list[Finding]
    digest: str
    image_content: str
    label_content: str
    num_channels: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[float, ...]
    axis_codes: str
    label_values: tuple[int, ...]
    classes: tuple[ClassMeasures, ...]
    channels: tuple[ChannelMeasures | None, ...]


def examine_case(entry: RawEntry, declared: frozenset[int] | None, ignore_label: int | None = None) -> CaseFacts:
    """Read the files of one case, each once, and check them.

    Args:
        entry: the case.
        declared: label values that may occur, the ignore label among them; None where the source names none.
        ignore_label: value of voxels that nobody annotated.
    """
    findings = list(_listing_findings(entry))
    images = _read_all(entry.case_id, entry.image_paths, findings)
    has_own_objects = entry.instances_path is not None and not is_of_objects(entry)
    labels = _read_all(
        entry.case_id,
        [entry.label_path] if entry.label_path else [],
        findings,
        lambda _: read_label_file(entry),
        may_be_folder=is_of_objects(entry),
    )
    objects = _read_all(
        entry.case_id,
        [entry.instances_path] if entry.instances_path and has_own_objects else [],
        findings,
        read_objects,
        may_be_folder=True,
    )
    first_path, first = next(iter(images.items()), ("", None))
    for path, image in images.items():
        assert first is not None
        findings += _grid_findings(entry.case_id, path, image, first_path, first, "channels-disagree")
    image_contents = {path: _content(image) for path, image in images.items()}
    findings += _copied_channel_findings(entry.case_id, image_contents)

    label_values: tuple[int, ...] = ()
    classes: tuple[ClassMeasures, ...] = ()
    is_labelled = None
    for path, label in labels.items():
        label_values, found = _examine_label(entry, path, label, declared)
        findings += found
        if first is not None:
            findings += _grid_findings(entry.case_id, path, label, first_path, first, "")
        if not found and max(label_values, default=0) <= _MAX_MEASURED_VALUE:
            numbers = label.array[0].astype(np.int16, copy=False)
            classes = measure_classes(numbers, ignore_label)
            is_labelled = (numbers > 0) & (numbers != ignore_label) if ignore_label else numbers > 0

    for path, numbered in objects.items():
        if first is not None:
            findings += _grid_findings(entry.case_id, path, numbered, first_path, first, "")
        findings += _objects_findings(entry.case_id, path, numbered, labels)

    channels: list[ChannelMeasures | None] = []
    for path, image in images.items():
        for voxels in image.array:
            low, high = voxels.min(), voxels.max()
            findings += _voxel_findings(entry.case_id, path, len(channels), voxels, low, high)
            if not (np.isfinite(low) and np.isfinite(high)):
                channels.append(None)
                continue
            is_on_grid = is_labelled is not None and is_labelled.shape == voxels.shape
            channels.append(measure_channel(voxels, is_labelled if is_on_grid else None))

    has_all_images = len(images) == len(entry.image_paths) > 0
    has_all = has_all_images and (bool(labels) or entry.label_path is None) and bool(objects) == has_own_objects
    image_digests = [image.digest for image in images.values()]
    label_digest = next((label.digest for label in labels.values()), "")
    object_digests = [numbered.digest for numbered in objects.values()]
    return CaseFacts(
        findings=findings,
        digest=_combined([*image_digests, label_digest, *object_digests]) if has_all else "",
        image_content=_combined(list(image_contents.values())) if has_all_images else "",
        label_content=next((_content(label) for label in labels.values()), ""),
        num_channels=len(channels) if has_all_images else 0,
        shape=first.shape if first else (0, 0, 0),
        spacing_mm=first.spacing_mm if first else (0.0, 0.0, 0.0),
        affine=tuple(first.affine.ravel().tolist()) if first else (),
        axis_codes=first.axis_codes if first else "",
        label_values=label_values,
        classes=classes,
        channels=tuple(channels) if has_all_images else (),
    )


def _combined(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _content(file: NiftiFile) -> str:
    # In the order of the file, because sorting the axes anew would copy the voxels.
    hashed = hashlib.sha256(f"{file.shape} {file.array.dtype.str}".encode())
    hashed.update(file.array.ravel(order="K").data)
    return hashed.hexdigest()


def _listing_findings(entry: RawEntry) -> Iterator[Finding]:
    if not entry.image_paths:
        files = (entry.label_path,) if entry.label_path else ()
        message, remedy = "a label without image", "add the image, or take the label away"
        yield Finding("error", "label-without-image", entry.case_id, files, message, remedy)
    if entry.label_path is None and entry.split == "train":
        message = "a training image without label"
        remedy = "add the label, or take the image out of the training cases"
        yield Finding("error", "image-without-label", entry.case_id, entry.image_paths, message, remedy)


def _read_all(
    case_id: str,
    paths: Sequence[str],
    findings: list[Finding],
    read: Callable[[str], NiftiFile] = read_file,
    may_be_folder: bool = False,
) -> dict[str, NiftiFile]:
    """Read what can be read; add a finding for what cannot."""
    files = {}
    for path in paths:
        if not (Path(path).is_file() or (may_be_folder and Path(path).is_dir())):
            remedy = "put it there, or take the case out of the data set"
            findings.append(Finding("error", "missing-file", case_id, (path,), "no such file", remedy))
            continue
        try:
            files[path] = read(path)
        except ValueError as error:
            message, _, remedy = str(error).removeprefix(f"{path}: ").rpartition("; ")
            findings.append(Finding("error", "unreadable", case_id, (path,), message, remedy))
    return files


def _copied_channel_findings(case_id: str, contents: dict[str, str]) -> Iterator[Finding]:
    first_of: dict[str, str] = {}
    for path, content in contents.items():
        first = first_of.setdefault(content, path)
        if first != path:
            message = f"the same voxels as {first}, the image of another channel"
            remedy = "one of them is a wrong copy: put the right file there"
            yield Finding("warning", "channels-alike", case_id, (path,), message, remedy)


def _voxel_findings(
    case_id: str, path: str, channel: int, voxels: np.ndarray, low: np.generic, high: np.generic
) -> Iterator[Finding]:
    if not (np.isfinite(low) and np.isfinite(high)):
        num_bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
        message = f"{num_bad} voxels of channel {channel} are NaN or infinite; every voxel must be a finite number"
        remedy = "replace them, for example by 0 outside the body"
        yield Finding("error", "not-finite", case_id, (path,), message, remedy)
    elif low == high:
        message = f"all voxels of channel {channel} are {low}; nothing can be learned from it"
        remedy = "export the image again, or leave the case out"
        yield Finding("warning", "constant-image", case_id, (path,), message, remedy)


def _examine_label(
    entry: RawEntry, path: str, label: NiftiFile, declared: frozenset[int] | None
) -> tuple[tuple[int, ...], list[Finding]]:
    """Give the label values that occur and what is wrong with them."""
    findings = []

    def found(kind: str, message: str, remedy: str) -> None:
        findings.append(Finding("error", kind, entry.case_id, (path,), message, remedy))

    if len(label.array) != 1:
        found("label-channels", f"a label map with {len(label.array)} channels", "save one map of class numbers")
    values = _distinct(label.array)
    whole = [int(value) for value in values if np.isfinite(value) and value == np.rint(value)]
    if len(whole) < len(values):
        broken = [float(value) for value in values if not np.isfinite(value) or value != np.rint(value)]
        found(
            "label-not-integer",
            f"label values {_shown(broken)} are not whole numbers; labels are class numbers",
            "make the label map again, resampled with nearest neighbour only",
        )
    undeclared = sorted(set(whole) - declared) if declared else [value for value in whole if value < 0]
    if undeclared:
        known = f"declared are {sorted(declared)}" if declared else "they begin at 0"
        found(
            "label-value",
            f"label values {_shown(undeclared)} are not allowed, {known}",
            "correct the label map or the declaration",
        )
    return tuple(whole), findings


def _objects_findings(
    case_id: str, path: str, objects: NiftiFile, labels: Mapping[str, NiftiFile]
) -> Iterator[Finding]:
    for label_path, label in labels.items():
        if label.array.shape != objects.array.shape:
            continue
        num_apart = int(np.count_nonzero((label.array > 0) != (objects.array > 0)))
        if num_apart:
            message = (
                f"{num_apart} voxels belong to an object and no class, or to a class and no object, in {label_path}"
            )
            remedy = "measures of objects leave such voxels out: check that the two are of one annotation"
            yield Finding("warning", "objects-disagree", case_id, (path,), message, remedy)


def _distinct(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.flatnonzero(np.bincount(array.ravel(), minlength=1))
    # NaN and numbers beyond 255 have no uint8; what they become is another number, so that the comparison tells.
    with np.errstate(invalid="ignore"):
        small = array.astype(np.uint8)
    # Sorting millions of float64 label voxels takes seconds; nearly always they are small whole numbers.
    return _distinct(small) if np.array_equal(small, array) else np.unique(array)


def _shown(values: Sequence[float]) -> str:
    more = f" and {len(values) - _NUM_VALUES_SHOWN} more" if len(values) > _NUM_VALUES_SHOWN else ""
    return f"{list(values[:_NUM_VALUES_SHOWN])}{more}"


def _grid_findings(
    case_id: str, path: str, file: NiftiFile, reference_path: str, reference: NiftiFile, kind: str
) -> Iterator[Finding]:
    """Compare the grid of a file with that of the first image file.

    Args:
        case_id: for the findings.
        path: of `file`.
        file: label map or image of another channel.
        reference_path: of `reference`.
        reference: the first image file.
        kind: of errors; "" for the name of the property that differs.
    """
    remedy = f"it must lie on the grid of {reference_path}: resample it, or check whether it is another case's"
    if file.shape != reference.shape:
        message = f"shape (z, y, x) {file.shape}, the image has {reference.shape}"
        yield Finding("error", kind or "shape", case_id, (path,), message, remedy)
    spacing_message = f"spacing (z, y, x) {file.spacing_mm} mm, the image has {reference.spacing_mm} mm"
    if not np.allclose(file.spacing_mm, reference.spacing_mm, rtol=_CLEAR_SPACING_DIFFERENCE, atol=0):
        yield Finding("error", kind or "spacing", case_id, (path,), spacing_message, remedy)
        return
    if file.shape != reference.shape:
        return
    if file.axis_codes != reference.axis_codes:
        message = f"its axes run {file.axis_codes}, those of the image {reference.axis_codes}"
        yield Finding("error", kind or "affine", case_id, (path,), message, remedy)
        return
    shift = _largest_shift_voxels(file, reference)
    if shift > _TINY_SHIFT_VOXELS:
        message = (
            f"its affine (origin {file.affine[:3, 3].tolist()}) puts voxels up to {shift:.3g} voxels off the image "
            f"(origin {reference.affine[:3, 3].tolist()})"
        )
        if shift > _CLEAR_SHIFT_VOXELS:
            remedy += "; where only its header is wrong, give it the affine of the image"
            yield Finding("error", kind or "affine", case_id, (path,), message, remedy)
        else:
            remedy = "taken as rounding: look at both, one over the other, if that is not what it is"
            yield Finding("warning", "affine", case_id, (path,), message, remedy)
    elif not np.allclose(file.spacing_mm, reference.spacing_mm, rtol=_TINY_SPACING_DIFFERENCE, atol=0):
        remedy = "taken as rounding: write the spacing of the image into its header, if that is not what it is"
        yield Finding("warning", "spacing", case_id, (path,), spacing_message, remedy)


def _largest_shift_voxels(file: NiftiFile, reference: NiftiFile) -> float:
    """How far apart the two affines put a corner of the grid, in voxels of the finest axis."""
    z, y, x = reference.shape
    corners = np.array(np.meshgrid([0, x - 1], [0, y - 1], [0, z - 1], [1])).reshape(4, -1)
    apart_mm = np.linalg.norm(((file.canonical_affine - reference.canonical_affine) @ corners)[:3], axis=0)
    return float(apart_mm.max() / min(reference.spacing_mm))
