"""Cut a case to the box of its nonzero voxels (nnU-Net v2, Isensee et al., 2021, arXiv 1809.10486)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

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

    A background voxel outside the mask becomes `OUTSIDE`; a labelled voxel there keeps its label.

    Args:
        image: (C, Z, Y, X).
        label: (Z, Y, X) integers or None. Not changed.
    """
    from pipelines.fingerprint.geometry import nonzero_box

    mask, slices = nonzero_box(image)
    mask = mask[slices]
    if label is not None:
        label = label[slices].astype(np.int16)
        label[(label == 0) & ~mask] = OUTSIDE
    box = tuple((int(axis.start), int(axis.stop)) for axis in slices)
    return CroppedCase(image[(slice(None), *slices)], label, mask, box)
