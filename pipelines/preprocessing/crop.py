"""Cut a case to the box of its nonzero voxels (nnU-Net v2, Isensee et al., 2021, arXiv 1809.10486)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipelines.fingerprint.geometry import bounding_box

OUTSIDE = -1
"""Stored label of background voxels outside the nonzero mask, and of padding."""


class CroppedCase(NamedTuple):
    """A case inside its box: image (C, Z, Y, X), label (Z, Y, X) or None, mask (Z, Y, X), box of three (low, high)."""

    image: np.ndarray
    label: np.ndarray | None
    mask: np.ndarray
    box: tuple[tuple[int, int], ...]


def crop_to_nonzero(image: np.ndarray, label: np.ndarray | None) -> CroppedCase:
    """Cut to the bounding box of the voxels that are nonzero in any channel, holes filled.

    A background voxel outside the mask becomes `OUTSIDE`; a labelled voxel there keeps its label. An image of zeros is
    kept whole, and all of it is inside.

    Args:
        image: (C, Z, Y, X).
        label: (Z, Y, X) integers or None. Not changed.
    """
    slices = bounding_box(image)
    image = image[(slice(None), *slices)]
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    mask = _without_holes(mask) if mask.any() else np.ones_like(mask)
    if label is not None:
        label = label[slices].astype(np.int16)
        label[(label == 0) & ~mask] = OUTSIDE
    box = tuple((axis.start, axis.stop) for axis in slices)
    return CroppedCase(image, label, mask, box)


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """Add the false voxels that no chain of face neighbours joins to the border of the box."""
    if mask.all():
        return mask
    from scipy import ndimage

    parts, num_parts = ndimage.label(~mask)
    is_outside = np.zeros(num_parts + 1, bool)
    for axis in range(mask.ndim):
        for border in (0, -1):
            is_outside[parts.take(border, axis)] = True
    is_outside[0] = False
    return ~is_outside[parts]
