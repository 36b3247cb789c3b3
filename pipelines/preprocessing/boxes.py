"""Bounding boxes of the values of a label map."""

from __future__ import annotations

import math

import numpy as np

from pipelines.fingerprint.geometry import Box


def value_boxes(label: np.ndarray) -> dict[int, Box]:
    """The box of each value that occurs, by ascending value.

    Two passes over the map and two over the slices that hold a value, whatever the number of classes.

    Args:
        label: (Z, Y, X) integers; may be empty.
    """
    if not label.size:
        return {}
    lowest, highest = int(label.min()), int(label.max())
    is_in_slice = np.stack(
        [np.bincount(plane.ravel().astype(np.intp) - lowest, minlength=highest - lowest + 1) > 0 for plane in label]
    )
    boxes = {}
    for index in np.flatnonzero(is_in_slice.any(axis=0)):
        slices = _extent(is_in_slice[:, index])
        plane = (label[slices] == lowest + index).any(axis=0)
        boxes[lowest + int(index)] = (slices, _extent(plane.any(axis=1)), _extent(plane.any(axis=0)))
    return boxes


def num_voxels(box: Box) -> int:
    """Voxels in a box."""
    return math.prod(side.stop - side.start for side in box)


def _extent(is_used: np.ndarray) -> slice:
    used = np.flatnonzero(is_used)
    return slice(int(used[0]), int(used[-1]) + 1)
