"""The box of an image that holds anything but zeros."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

Box = tuple[slice, slice, slice]


def nonzero_box(image: np.ndarray) -> tuple[np.ndarray, Box]:
    """Find where any channel is nonzero, holes filled (nnU-Net's rule), and the bounding box of that.

    An image of zeros is kept whole, so that every case has a box.

    Args:
        image: (C, Z, Y, X).

    Returns:
        The mask, (Z, Y, X) bool over the whole image, and the slices of its bounding box.
    """
    mask = np.any(image != 0, axis=0)
    if not mask.any():
        mask = np.ones_like(mask)
    if not mask.all():
        mask = ndimage.binary_fill_holes(mask)
    box = ndimage.find_objects(mask.astype(np.uint8), max_label=1)[0]
    return mask, box


def box_shape(box: Box) -> tuple[int, int, int]:
    """Voxels of a box along z, y, x."""
    z, y, x = (side.stop - side.start for side in box)
    return z, y, x
