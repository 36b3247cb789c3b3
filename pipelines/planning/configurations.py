"""Which configurations a data set has, and the geometry of each (nnU-Net's rules, nnunetv2 2.8.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.fingerprint.extract import Fingerprint
from pipelines.planning.spacing import resampled_shape, target_spacing, transpose_order

SPATIAL_DIMS = {"2d": 2, "3d_fullres": 3, "3d_lowres": 3}
# What an entry takes unasked, the first that it can.
_UNASKED = ("3d_fullres", "2d")
_LOWRES_PATCH_SHARE = 0.25
_LOWRES_STEP = 1.03
_LOWRES_LEAST_REDUCTION = 2

PlanPatch = Callable[[Sequence[float], Sequence[float]], Sequence[int]]


@dataclass(frozen=True)
class Geometry:
    """Cases after transposing and resampling.

    Attributes:
        transpose_forward: axis of the image (z, y, x) that becomes axis 0, 1, 2.
        spacing_mm: target spacing, transposed.
        median_shape: median over cases of their resampled shapes, transposed; halves where the number of cases is even.
        num_voxels: of that case; at low resolution of its shape before rounding, as nnU-Net counts them.
    """

    transpose_forward: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    median_shape: tuple[float, float, float]
    num_voxels: float


def geometry(
    fingerprint: Fingerprint, spacing_mm: Sequence[float] | None = None, *, puts_slices_first: bool = True
) -> Geometry:
    """Geometry of a data set at full resolution.

    Args:
        fingerprint: of the training cases.
        spacing_mm: of z, y, x as the user wants it; None for the target spacing.
        puts_slices_first: where the median case has one voxel along a single axis, that axis comes first, so that its
            plane is what 2D sees. nnU-Net lets the largest spacing decide, and takes slices with another order of axes
            for volumes.
    """
    target = spacing_mm or target_spacing(fingerprint.spacings_mm, fingerprint.shapes_after_crop)
    shapes = [
        resampled_shape(shape, spacing, target)
        for shape, spacing in zip(fingerprint.shapes_after_crop, fingerprint.spacings_mm, strict=True)
    ]
    median = np.median(shapes, axis=0).tolist()
    single = [axis for axis in range(3) if median[axis] == 1]
    order = transpose_order(target, single[0] if puts_slices_first and len(single) == 1 else None)
    return Geometry(
        order,
        (float(target[order[0]]), float(target[order[1]]), float(target[order[2]])),
        (median[order[0]], median[order[1]], median[order[2]]),
        math.prod(median),
    )


def configurations(space: Geometry) -> list[str]:
    """`2d`; and, unless the cases are slices, `3d_fullres` and `3d_lowres`, which large cases alone have."""
    return ["2d"] if space.median_shape[0] == 1 else ["2d", "3d_fullres", "3d_lowres"]


def default_configuration(available: Sequence[str], served_dims: Sequence[int], architecture: str, dataset: str) -> str:
    """The configuration that an entry takes unasked: the first that data and architecture have in common.

    Args:
        available: configurations of the data.
        served_dims: spatial dimensions that the architecture serves.
        architecture: its name, for the message.
        dataset: likewise.

    Raises:
        ValueError: they have none in common.
    """
    for name in _UNASKED:
        if name in available and SPATIAL_DIMS[name] in served_dims:
            return name
    cases = "single slices" if list(available) == ["2d"] else "volumes"
    raise ValueError(
        f"data set {dataset} has {', '.join(available)}, because its cases are {cases}, but {architecture} serves "
        f"{' and '.join(f'{dims}D' for dims in served_dims)} only; leave the entry out of this study, or give it "
        "another architecture"
    )


def low_resolution(space: Geometry, patch_size: Sequence[int], plan_patch: PlanPatch) -> tuple[Geometry | None, str]:
    """Geometry of nnU-Net's low-resolution configuration, if there is one.

    There is where a patch covers less than a quarter of the median case, and coarsening the spacing until it covers
    that much leaves half the voxels or fewer. Axes finer than half of the coarsest one are coarsened first.

    Args:
        space: full resolution.
        patch_size: at full resolution.
        plan_patch: patch for a spacing and a median shape.

    Returns:
        The geometry, or None; and why.
    """
    fullres, median = np.array(space.spacing_mm, np.float64), np.array(space.median_shape, np.float64)
    spacing, num_voxels, shape = fullres.copy(), space.num_voxels, tuple(space.median_shape)
    share = math.prod(patch_size) / num_voxels
    seen = f"a patch of full resolution covers {share:.3g} of the median case"
    if share >= _LOWRES_PATCH_SHARE:
        return None, f"{seen}, and {_LOWRES_PATCH_SHARE} is enough"
    while share < _LOWRES_PATCH_SHARE:
        is_finer = spacing.max() / spacing > 2
        spacing[is_finer if is_finer.any() else ...] *= _LOWRES_STEP
        exact = fullres / spacing * median
        shape = tuple(float(round(side)) for side in exact.tolist())
        if min(shape) < 1:
            # From here on nnU-Net's loop plans a patch without voxels for ever (its issue 2809).
            axis = shape.index(min(shape))
            return None, (
                f"{seen}, but where it would cover {_LOWRES_PATCH_SHARE}, none of the {median[axis]:g} voxels along "
                f"axis {axis} is left; nnU-Net's planner does not end on such data"
            )
        num_voxels = float(np.prod(exact))
        share = math.prod(plan_patch(spacing.tolist(), shape)) / num_voxels
    reduction = space.num_voxels / num_voxels
    if reduction < _LOWRES_LEAST_REDUCTION:
        return None, (
            f"{seen}, but {_LOWRES_PATCH_SHARE} of a case with 1/{reduction:.3g} of the voxels, and less than "
            f"1/{_LOWRES_LEAST_REDUCTION} is asked for"
        )
    coarse = spacing.tolist()
    return Geometry(
        space.transpose_forward,
        (coarse[0], coarse[1], coarse[2]),
        (shape[0], shape[1], shape[2]),
        num_voxels,
    ), (
        f"{seen}, less than {_LOWRES_PATCH_SHARE}; at {', '.join(f'{side:.4g}' for side in coarse)} mm it covers "
        f"{share:.3g} of one with 1/{reduction:.3g} of the voxels"
    )
