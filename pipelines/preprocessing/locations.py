"""Voxels to centre foreground patches on (nnU-Net v2), and how a file keeps them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from pipelines.fingerprint.geometry import Box
from pipelines.preprocessing.boxes import value_boxes

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
    boxes = {value: box for value, box in value_boxes(label).items() if value > 0 and value != ignore_label}
    chosen = {value: _choose(label[box] == value, box, rng) for value, box in boxes.items()}
    if ignore_label is not None and (label != ignore_label).any():
        whole = (slice(0, label.shape[0]), slice(0, label.shape[1]), slice(0, label.shape[2]))
        chosen[ANNOTATED] = _choose(label != ignore_label, whole, rng)
    return chosen


def _choose(mask: np.ndarray, box: Box, rng: np.random.RandomState) -> np.ndarray:
    voxels = np.flatnonzero(mask)
    count = max(min(_MOST_VOXELS, len(voxels)), int(np.ceil(_SMALLEST_SHARE * len(voxels))))
    chosen = voxels[rng.choice(len(voxels), count, replace=False)]
    corner = [side.start for side in box]
    return (np.stack(np.unravel_index(chosen, mask.shape), axis=1) + corner).astype(np.int32)


def encoded(voxels: np.ndarray, shape: tuple[int, ...]) -> bytes:
    """Voxels as bytes: the distances between their ascending flat indices, deflated.

    Neighbours are the rule, so one voxel takes about a quarter of a byte where a class is whole, and under two where it
    is a sample.

    Args:
        voxels: (k, 3) coordinates, all different.
        shape: of the map, (Z, Y, X), fewer than 2^32 voxels.
    """
    flat = np.sort(np.ravel_multi_index(tuple(np.asarray(voxels, np.int64).T), shape))
    return zlib.compress(np.diff(flat, prepend=0).astype("<u4").tobytes())


def decoded(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Inverse of `encoded`: (k, 3) int32 coordinates in ascending order."""
    flat = np.cumsum(np.frombuffer(zlib.decompress(content), "<u4"), dtype=np.int64)
    return np.stack(np.unravel_index(flat, shape), axis=1).astype(np.int32)


class StoredLocations(Mapping[int, np.ndarray]):
    """Class value -> (k, 3) int32 coordinates, each class decoded when it is first asked for."""

    def __init__(self, contents: Mapping[int, bytes], shape: tuple[int, ...]) -> None:
        self._contents = contents
        self._shape = shape
        self._decoded: dict[int, np.ndarray] = {}

    def __getitem__(self, value: int) -> np.ndarray:
        if value not in self._decoded:
            self._decoded[value] = decoded(self._contents[value], self._shape)
        return self._decoded[value]

    def __iter__(self) -> Iterator[int]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)
