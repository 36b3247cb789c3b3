"""Voxels to centre foreground patches on (nnU-Net v2)."""

from __future__ import annotations

import numpy as np

ANNOTATED = -1
"""Key of the annotated voxels, present only where a data set has an ignore label."""

_MOST_VOXELS = 10_000
_SMALLEST_SHARE = 0.01
_SEED = 1234


def class_locations(label: np.ndarray, ignore_label: int | None = None) -> dict[int, np.ndarray]:
    """Choose voxels of every foreground class without replacement.

    Of a class with n voxels, min(10 000, n), but at least one percent of n (rounded up).

    Args:
        label: (Z, Y, X) integers; -1 outside the nonzero mask.
        ignore_label: value of voxels nobody annotated; not a class. With it, key `ANNOTATED` holds voxels of any other
            value, background and -1 included.

    Returns:
        Class value -> (k, 3) int32 coordinates; an absent class has no key.
    """
    rng = np.random.RandomState(_SEED)
    classes = [int(value) for value in np.unique(label) if value > 0 and value != ignore_label]
    chosen = {value: _choose(label == value, rng) for value in classes}
    if ignore_label is not None and (label != ignore_label).any():
        chosen[ANNOTATED] = _choose(label != ignore_label, rng)
    return chosen


def _choose(mask: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    voxels = np.argwhere(mask)
    count = max(min(_MOST_VOXELS, len(voxels)), int(np.ceil(_SMALLEST_SHARE * len(voxels))))
    return voxels[rng.choice(len(voxels), count, replace=False)].astype(np.int32)
