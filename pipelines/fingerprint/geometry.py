"""The box of an image that holds anything but zeros, and the blocks a volume is looked at in."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# What is computed of a volume is computed of so many voxels at a time, so that it needs little memory beside it. Where
# blocks end decides how sums round, so it depends on nothing but the shape.
BLOCK_VOXELS = 2**20

Box = tuple[slice, slice, slice]


def bounding_box(image: np.ndarray) -> Box:
    """Find the smallest box outside of which every channel is zero; the whole image where it is zero everywhere.

    Holes have no part in it: filling them adds no voxel beyond the box.

    Args:
        image: (C, Z, Y, X).
    """
    box = [slice(0, side) for side in image.shape[1:]]
    for axis in range(3):
        planes = np.moveaxis(image[(slice(None), *box)], axis + 1, 0)
        # From outside in: of an image without zero margins hardly anything is read.
        first = next((index for index, plane in enumerate(planes) if plane.any()), None)
        if first is None:
            break
        last = next(index for index in reversed(range(len(planes))) if planes[index].any())
        box[axis] = slice(first, last + 1)
    z, y, x = box
    return z, y, x


def nonzero_box(image: np.ndarray) -> tuple[np.ndarray, Box]:
    """Find where any channel is nonzero, holes filled (nnU-Net's rule), and the bounding box of that.

    An image of zeros is kept whole, so that every case has a box.

    Args:
        image: (C, Z, Y, X).

    Returns:
        The mask, (Z, Y, X) bool over the whole image, and the slices of its bounding box.
    """
    box = bounding_box(image)
    mask = np.any(image != 0, axis=0)
    if not mask.any():
        mask = np.ones_like(mask)
    if not mask.all():
        # Takes a third of a second to import, which the fingerprint does without.
        from scipy import ndimage

        mask = ndimage.binary_fill_holes(mask)
    return mask, box


def box_shape(box: Box) -> tuple[int, int, int]:
    """Voxels of a box along z, y, x."""
    z, y, x = (side.stop - side.start for side in box)
    return z, y, x


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the first axis of a volume (Z, Y, X): up to `BLOCK_VOXELS` voxels each, but never less than a plane."""
    num_planes = max(1, BLOCK_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], num_planes):
        yield slice(start, start + num_planes)
