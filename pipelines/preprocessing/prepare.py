"""From cases as they were collected to arrays a network can train on (nnU-Net v2).

Order per case: transpose, crop to the nonzero box, normalise, resample, choose class locations. Normalisation stands
before resampling on purpose: spline overshoot then meets values of order one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.atomic_files import DiskFullError, link, write_text
from pipelines.planning.spacing import resampled_shape
from pipelines.preprocessing.crop import OUTSIDE, crop_to_nonzero
from pipelines.preprocessing.locations import class_locations
from pipelines.preprocessing.normalise import normalise
from pipelines.preprocessing.resample import resample_image, resample_label, separate_axis
from pipelines.preprocessing.shards import read_digest, write_case

if TYPE_CHECKING:
    from pipelines.cases.case import Case
    from pipelines.planning.plan import Plan, Preprocessing

# See `needed_bytes`.
_PROCESS_BYTES = 110 * 2**20
_SCAN_BYTES = 12
_RESAMPLED_BYTES = 8


class PreparedArrays(NamedTuple):
    """What a prepared case consists of; shapes and keys as in `shards.PreparedCase`."""

    image: np.ndarray
    label: np.ndarray | None
    locations: dict[int, np.ndarray]
    properties: dict[str, Any]


def prepare_case(
    image: np.ndarray,
    label: np.ndarray | None,
    spacing_mm: Sequence[float],
    preprocessing: Preprocessing,
    ignore_label: int | None = None,
) -> PreparedArrays:
    """Prepare one case.

    Args:
        image: (C, Z, Y, X) raw values.
        label: (Z, Y, X) integers, or None.
        spacing_mm: of the axes z, y, x.
        preprocessing: the plan's part; a spacing of None keeps the case's spacing on that axis.
        ignore_label: value of voxels that were not annotated.

    Returns:
        Image float32 (C, *shape), label int16 with -1 outside the nonzero mask, class locations, and properties:
        `shape` and `spacing_mm` of the case (z, y, x), `transpose_forward`, then in transposed axis order `box` (low,
        high per axis in the case's grid), `shape_after_crop`, `shape_after_resampling`, `spacing_after_mm`.
    """
    forward = tuple(preprocessing.transpose_forward)
    transposed = image.transpose(0, *(axis + 1 for axis in forward))
    transposed_spacing = [float(spacing_mm[axis]) for axis in forward]
    cropped = crop_to_nonzero(transposed, None if label is None else label.transpose(forward))
    inside = cropped.mask if cropped.label is None else cropped.label > OUTSIDE
    normalised = normalise(
        cropped.image,
        inside,
        preprocessing.normalisation,
        preprocessing.uses_nonzero_mask,
        preprocessing.intensity,
    )
    pairs = zip(preprocessing.spacing_mm, transposed_spacing, strict=True)
    target_spacing = [own if target is None else float(target) for target, own in pairs]
    shape = resampled_shape(normalised.shape[1:], transposed_spacing, target_spacing)
    if min(shape) < 1:
        raise ValueError(
            f"at a spacing of {target_spacing} mm nothing is left of a case of {normalised.shape[1:]} voxels at "
            f"{transposed_spacing} mm; choose a finer `spacing_mm` or take the case out"
        )
    axis = separate_axis(transposed_spacing, target_spacing)
    prepared = resample_image(normalised, shape, axis)
    prepared_label = None if cropped.label is None else resample_label(cropped.label, shape, axis)
    properties = {
        "shape": list(image.shape[1:]),
        "spacing_mm": [float(value) for value in spacing_mm],
        "transpose_forward": list(forward),
        "box": [list(limits) for limits in cropped.box],
        "shape_after_crop": list(cropped.image.shape[1:]),
        "shape_after_resampling": list(shape),
        "spacing_after_mm": target_spacing,
    }
    locations = {} if prepared_label is None else class_locations(prepared_label, ignore_label)
    return PreparedArrays(prepared, prepared_label, locations, properties)


class _Target(NamedTuple):
    """One prepared file of a case: how it is prepared, and where it goes."""

    preprocessing: Preprocessing
    ignore_label: int | None
    path: Path


class _Job(NamedTuple):
    """The files of a case that are missing."""

    case: Case
    targets: list[_Target]
    compression: str


def prepare_dataset(
    cases: Sequence[Case],
    plans: Sequence[Plan],
    out_dir: Path,
    work_dir: Path,
    code_digest: str,
    compression: str = "none",
) -> None:
    """Prepare every case once for each distinct preprocessing among the plans, and write each entry's index.

    A result lies in `work_dir` under the digest of (case content, preprocessing, ignore label, code, compression) and
    is hard-linked to `out_dir/<configuration>-<digest8>/<case_id>.arrow`, so a case that did not change is never
    computed twice and a stopped run goes on where it was. `out_dir/index/<entry>.json` holds `dataset`, `entry`,
    `configuration`, `preprocessing_digest`, `folder` and `cases`: per case `case_id`, `file` (name inside `folder`),
    `digest` (of the arrays), `patient`, `split`, `fold`, `has_label`.

    Args:
        cases: training and test cases; order is kept in the index.
        plans: of one data set.
        out_dir: `prepared/D`.
        work_dir: kept between runs, not tracked.
        code_digest: of the code that decides the arrays; a change computes everything anew.
        compression: of `shards.COMPRESSIONS`.

    Raises:
        ValueError: cases that cannot be prepared, each with the reason. The others are done and kept.
    """
    stored: dict[tuple[str, str], Path] = {}
    missing: dict[str, _Job] = {}
    for plan in plans:
        preprocessing_digest = plan.preprocessing.digest()
        for case in cases:
            key = _cache_key(case.digest, preprocessing_digest, plan.ignore_label, code_digest, compression)
            path = Path(work_dir) / key[:2] / f"{key}.arrow"
            if (preprocessing_digest, case.case_id) not in stored and not path.exists():
                targets = missing.setdefault(case.case_id, _Job(case, [], compression)).targets
                targets.append(_Target(plan.preprocessing, plan.ignore_label, path))
            stored[preprocessing_digest, case.case_id] = path
    if missing:
        _prepare_all(list(missing.values()))
    for plan in plans:
        preprocessing_digest = plan.preprocessing.digest()
        folder = f"{plan.preprocessing.configuration}-{preprocessing_digest[:8]}"
        for case in cases:
            link(stored[preprocessing_digest, case.case_id], Path(out_dir) / folder / f"{case.case_id}.arrow")
        records = [_index_record(case, stored[preprocessing_digest, case.case_id]) for case in cases]
        index = {
            "dataset": plan.dataset,
            "entry": plan.entry,
            "configuration": plan.preprocessing.configuration,
            "preprocessing_digest": preprocessing_digest,
            "folder": folder,
            "cases": records,
        }
        write_text(Path(out_dir) / "index" / f"{plan.entry}.json", json.dumps(index, indent=2) + "\n")


def _prepare_all(jobs: Sequence[_Job]) -> None:
    from concurrent.futures.process import BrokenProcessPool

    from pipelines.ray_session.map_cases import map_cases

    needs = [needed_bytes(job.case, [target.preprocessing for target in job.targets]) for job in jobs]
    try:
        failures = map_cases(
            _prepare_to_files,
            jobs,
            desc="prepare",
            imports=("pipelines.cases.annotation", "pyarrow", "scipy.ndimage"),
            memory_bytes=needs,
        )
    except BrokenProcessPool as error:
        unfinished = [job.case.case_id for job in jobs if not all(target.path.exists() for target in job.targets)]
        raise ValueError(
            f"a process that prepared cases was killed, most likely because memory ran out; not finished: "
            f"{', '.join(unfinished)}; end other programs and run the same command again: finished cases are kept"
        ) from error
    reasons = [failure for failure in failures if failure]
    if len(reasons) == 1:
        raise ValueError(reasons[0])
    if reasons:
        raise ValueError(
            f"{len(reasons)} of {len(jobs)} cases could not be prepared; the others are done and kept:\n  "
            + "\n  ".join(reasons)
        )


def _prepare_to_files(job: _Job) -> str | None:
    """Write the files of a case; say why where that is the fault of the case."""
    from pipelines.cases.annotation import read_case_label
    from pipelines.cases.nifti import read_image

    case = job.case
    try:
        image = read_image(case)
        label = None if case.label_path is None else read_case_label(case)[0]
        for preprocessing, ignore_label, path in job.targets:
            prepared = prepare_case(image.array, label, image.spacing_mm, preprocessing, ignore_label)
            write_case(path, *prepared, compression=job.compression)
    except DiskFullError:
        raise
    except ValueError as error:
        return f"case {case.case_id} ({case.image_paths[0]}): {error}"
    except MemoryError as error:
        return (
            f"case {case.case_id} ({case.image_paths[0]}): out of memory ({error}); end other programs, choose a "
            "coarser `spacing_mm`, or take the case out"
        )
    return None


def needed_bytes(case: Case, preprocessings: Sequence[Preprocessing]) -> int:
    """About how much memory a process takes that prepares a case, interpreter and libraries included.

    A fifth to a half more than was measured with one and two channels of 6 million voxels in int16 and float64, made
    finer, coarser and left as they are. The box of the nonzero voxels is not known before, so the whole scan counts.
    """
    channels = len(preprocessings[0].normalisation)
    resampled = 0
    for preprocessing in preprocessings:
        shape = [case.shape[axis] for axis in preprocessing.transpose_forward]
        spacing_mm = [case.spacing_mm[axis] for axis in preprocessing.transpose_forward]
        resampled = max(resampled, math.prod(resampled_shape(shape, spacing_mm, preprocessing.spacing_mm)))
    # Of a voxel of the scan: its channels raw and normalised in float32, and its file, label and mask. Of a resampled
    # one: its channels in float32 and as they are stored, an axis that is resampled, and its label.
    scan_bytes = math.prod(case.shape) * (8 * channels + _SCAN_BYTES)
    return _PROCESS_BYTES + scan_bytes + resampled * (6 * channels + _RESAMPLED_BYTES)


def _cache_key(
    case_digest: str, preprocessing_digest: str, ignore_label: int | None, code_digest: str, compression: str
) -> str:
    parts = [case_digest, preprocessing_digest, ignore_label, code_digest, compression]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _index_record(case: Case, path: Path) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "file": f"{case.case_id}.arrow",
        "digest": read_digest(path),
        "patient": case.patient,
        "split": case.split,
        "fold": case.fold,
        "has_label": case.label_path is not None,
    }
