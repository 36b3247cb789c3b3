"""One pass over the files of one case: its findings, its geometry, its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipelines.cases.case import RawEntry
from pipelines.cases.nifti import NiftiFile, read_file

# A label half a voxel off is wrong at every border; a thousandth of a voxel is a header's rounding.
_CLEAR_SHIFT_VOXELS = 0.5
_TINY_SHIFT_VOXELS = 1e-3
_CLEAR_SPACING_DIFFERENCE = 1e-2
_NUM_VALUES_SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: an error stops the study, a warning does not.
        case_id: "" where the whole data set is meant.
        file: "" where no single file is meant.
        rule: short name of the rule, such as "shape".
        message: the value, the rule and the fix.
    """

    severity: Literal["error", "warning"]
    case_id: str
    file: str
    rule: str
    message: str

    def __str__(self) -> str:
        """One line with everything but the severity."""
        where = [f"case {self.case_id}"] if self.case_id else []
        where += [self.file] if self.file else []
        return ": ".join([*where, f"{self.message} [{self.rule}]"])


@dataclass(frozen=True)
class CaseFacts:
    """What one pass over the files of a case found.

    Where a file could not be read, digests are "" and the numbers 0 or empty.

    Attributes:
        findings: of this case alone.
        digest: sha256 over the bytes of the image files and the label file.
        image_digest: sha256 over the bytes of the image files.
        label_digest: sha256 of the label file.
        num_channels: of all image files together.
        shape: (z, y, x) voxels.
        spacing_mm: (z, y, x).
        affine: 16 numbers of the first image file as stored.
        label_values: the whole numbers that occur in the label map, ascending.
    """

    findings: list[Finding]
    digest: str
    image_digest: str
    label_digest: str
    num_channels: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    affine: tuple[float, ...]
    label_values: tuple[int, ...]


def examine_case(entry: RawEntry, declared: frozenset[int] | None) -> CaseFacts:
    """Read the files of one case, each once, and check them.

    Args:
        entry: the case.
        declared: label values that may occur; None where the source names none.
    """
    findings = list(_listing_findings(entry))
    images = _read_all(entry.case_id, entry.image_paths, findings)
    labels = _read_all(entry.case_id, [entry.label_path] if entry.label_path else [], findings)
    label_values: tuple[int, ...] = ()
    for path, image in images.items():
        findings += _voxel_findings(entry.case_id, path, image)
    for path, label in labels.items():
        label_values, found = _examine_label(entry.case_id, path, label, declared)
        findings += found
    if images:
        reference_path, reference = next(iter(images.items()))
        for path, image in images.items():
            findings += _grid_findings(entry.case_id, path, image, reference_path, reference, "channels-disagree")
        for path, label in labels.items():
            findings += _grid_findings(entry.case_id, path, label, reference_path, reference, "")

    has_all_images = len(images) == len(entry.image_paths) > 0
    image_digests = [image.digest for image in images.values()]
    label_digest = next((label.digest for label in labels.values()), "")
    has_all = has_all_images and (bool(labels) or entry.label_path is None)
    first = next(iter(images.values()), None)
    return CaseFacts(
        findings=findings,
        digest=_combined([*image_digests, label_digest]) if has_all else "",
        image_digest=_combined(image_digests) if has_all_images else "",
        label_digest=label_digest,
        num_channels=sum(len(image.array) for image in images.values()) if has_all_images else 0,
        shape=first.shape if first else (0, 0, 0),
        spacing_mm=first.spacing_mm if first else (0.0, 0.0, 0.0),
        affine=tuple(first.affine.ravel().tolist()) if first else (),
        label_values=label_values,
    )


def _combined(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _listing_findings(entry: RawEntry) -> Iterator[Finding]:
    if not entry.image_paths:
        yield Finding(
            "error",
            entry.case_id,
            entry.label_path or "",
            "label-without-image",
            "a label without image; add the image, or take the label away",
        )
    if entry.label_path is None and entry.split == "train":
        yield Finding(
            "error",
            entry.case_id,
            ", ".join(entry.image_paths),
            "image-without-label",
            "a training image without label; add the label, or take the image out of the training cases",
        )


def _read_all(case_id: str, paths: Sequence[str], findings: list[Finding]) -> dict[str, NiftiFile]:
    """Read what can be read; add a finding for what cannot."""
    files = {}
    for path in paths:
        if not Path(path).is_file():
            message = "no such file; put it there, or take the case out of the data set"
            findings.append(Finding("error", case_id, path, "missing-file", message))
            continue
        try:
            files[path] = read_file(path)
        except ValueError as error:
            findings.append(Finding("error", case_id, path, "unreadable", str(error).removeprefix(f"{path}: ")))
    return files


def _voxel_findings(case_id: str, path: str, image: NiftiFile) -> Iterator[Finding]:
    if image.array.dtype.kind == "f":
        num_bad = image.array.size - int(np.count_nonzero(np.isfinite(image.array)))
        if num_bad:
            message = f"{num_bad} voxels are NaN or infinite; every voxel must be a finite number: replace them"
            yield Finding("error", case_id, path, "not-finite", message)
            return
    for channel, voxels in enumerate(image.array):
        if voxels.min() == voxels.max():
            message = (
                f"all voxels of channel {channel} are {voxels.flat[0]}; nothing can be learned from it: look at it"
            )
            yield Finding("warning", case_id, path, "constant-image", message)


def _examine_label(
    case_id: str, path: str, label: NiftiFile, declared: frozenset[int] | None
) -> tuple[tuple[int, ...], list[Finding]]:
    """Give the label values that occur and what is wrong with them."""
    findings = []
    if len(label.array) != 1:
        message = f"a label map with {len(label.array)} channels; save one map of class numbers"
        findings.append(Finding("error", case_id, path, "label-channels", message))
    values = _distinct(label.array)
    whole = [int(value) for value in values if np.isfinite(value) and value == np.rint(value)]
    if len(whole) < len(values):
        broken = [float(value) for value in values if not np.isfinite(value) or value != np.rint(value)]
        message = (
            f"label values {_shown(broken)} are not whole numbers; labels are class numbers: a label map must be "
            "resampled with nearest neighbour only"
        )
        findings.append(Finding("error", case_id, path, "label-not-integer", message))
    undeclared = sorted(set(whole) - declared) if declared else [value for value in whole if value < 0]
    if undeclared:
        known = f"declared are {sorted(declared)}" if declared else "they begin at 0"
        message = (
            f"label values {_shown(undeclared)} are not allowed, {known}; correct the label map or the declaration"
        )
        findings.append(Finding("error", case_id, path, "label-value", message))
    return tuple(whole), findings


def _distinct(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.flatnonzero(np.bincount(array.ravel(), minlength=1))
    small = array.astype(np.uint8)
    # Sorting millions of float64 label voxels takes seconds; nearly always they are small whole numbers.
    return _distinct(small) if np.array_equal(small, array) else np.unique(array)


def _shown(values: Sequence[float]) -> str:
    more = f" and {len(values) - _NUM_VALUES_SHOWN} more" if len(values) > _NUM_VALUES_SHOWN else ""
    return f"{list(values[:_NUM_VALUES_SHOWN])}{more}"


def _grid_findings(
    case_id: str, path: str, file: NiftiFile, reference_path: str, reference: NiftiFile, rule: str
) -> Iterator[Finding]:
    """Compare the grid of a file with that of the first image file.

    Args:
        case_id: for the findings.
        path: of `file`.
        file: label map or image of another channel.
        reference_path: of `reference`.
        reference: the first image file.
        rule: name for errors; "" for the name of the property that differs.
    """
    fix = f"it must lie on the grid of {reference_path}: resample it, or check whether it is another case's"
    if file.shape != reference.shape:
        message = f"shape (z, y, x) {file.shape}, the image has {reference.shape}; {fix}"
        yield Finding("error", case_id, path, rule or "shape", message)
    if not np.allclose(file.spacing_mm, reference.spacing_mm, rtol=_CLEAR_SPACING_DIFFERENCE, atol=0):
        message = f"spacing (z, y, x) {file.spacing_mm} mm, the image has {reference.spacing_mm} mm; {fix}"
        yield Finding("error", case_id, path, rule or "spacing", message)
        return
    if file.shape != reference.shape:
        return
    if file.axis_codes != reference.axis_codes:
        message = f"its axes run {file.axis_codes}, those of the image {reference.axis_codes}; {fix}"
        yield Finding("error", case_id, path, rule or "affine", message)
        return
    shift = _largest_shift_voxels(file, reference)
    if shift > _TINY_SHIFT_VOXELS:
        is_clear = shift > _CLEAR_SHIFT_VOXELS
        message = (
            f"its affine (origin {file.affine[:3, 3].tolist()}) puts voxels up to {shift:.3g} voxels off the image "
            f"(origin {reference.affine[:3, 3].tolist()}); {fix if is_clear else 'taken as rounding: look at it'}"
        )
        yield Finding(
            "error" if is_clear else "warning", case_id, path, (rule if is_clear else "") or "affine", message
        )


def _largest_shift_voxels(file: NiftiFile, reference: NiftiFile) -> float:
    """How far apart the two affines put a corner of the grid, in voxels of the finest axis."""
    z, y, x = reference.shape
    corners = np.array(np.meshgrid([0, x - 1], [0, y - 1], [0, z - 1], [1])).reshape(4, -1)
    apart_mm = np.linalg.norm(((file.canonical_affine - reference.canonical_affine) @ corners)[:3], axis=0)
    return float(apart_mm.max() / min(reference.spacing_mm))
