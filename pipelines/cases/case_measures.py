"""Figures of one case that only mean something beside those of other cases: pieces of each class, intensities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_NUM_SAMPLED_VOXELS = 100_000
_SPECK_SHARE = 0.01
_NUM_SIZES_KEPT = 10
_PERCENTILES = (1, 99)


@dataclass(frozen=True)
class ClassMeasures:
    """One class in one label map.

    Attributes:
        value: of the class.
        num_voxels: of the class.
        num_pieces: parts that touch nowhere, not even at a corner.
        num_specks: pieces with less than 1 % of the voxels of the class.
        piece_sizes: voxels of the largest pieces, ten at most, descending.
        speck_sizes: voxels of the largest specks, ten at most, descending.
        centre_x: middle of the class's bounding box in voxels, from left to right.
    """

    value: int
    num_voxels: int
    num_pieces: int
    num_specks: int
    piece_sizes: tuple[int, ...]
    speck_sizes: tuple[int, ...]
    centre_x: float


@dataclass(frozen=True)
class ChannelMeasures:
    """One channel of one image, from about 100,000 voxels at even distances.

    Attributes:
        low: 1st percentile.
        high: 99th percentile.
        labelled_median: of the voxels with a class; None where there are none.
    """

    low: float
    high: float
    labelled_median: float | None

    @property
    def spread(self) -> float:
        """From the 1st to the 99th percentile."""
        return self.high - self.low


def measure_classes(label: np.ndarray, ignore_label: int | None) -> tuple[ClassMeasures, ...]:
    """Measure every class that occurs.

    Args:
        label: (Z, Y, X) integers from 0.
        ignore_label: value that is no class.
    """
    from scipy import ndimage

    touching = np.ones((3, 3, 3), bool)
    measures = []
    for value, box in enumerate(ndimage.find_objects(label), 1):
        if box is None or value == ignore_label:
            continue
        pieces, num_pieces = ndimage.label(label[box] == value, touching)
        sizes = np.sort(np.bincount(pieces.ravel())[1:])[::-1]
        specks = sizes[sizes < _SPECK_SHARE * sizes.sum()]
        measures.append(
            ClassMeasures(
                value=value,
                num_voxels=int(sizes.sum()),
                num_pieces=num_pieces,
                num_specks=len(specks),
                piece_sizes=tuple(sizes[:_NUM_SIZES_KEPT].tolist()),
                speck_sizes=tuple(specks[:_NUM_SIZES_KEPT].tolist()),
                centre_x=(box[2].start + box[2].stop - 1) / 2,
            )
        )
    return tuple(measures)


def measure_channel(voxels: np.ndarray, is_labelled: np.ndarray | None) -> ChannelMeasures:
    """Measure one channel.

    Args:
        voxels: (Z, Y, X), finite.
        is_labelled: (Z, Y, X) bool, where a class is; None without a label map.
    """
    step = math.ceil((voxels.size / _NUM_SAMPLED_VOXELS) ** (1 / 3))
    low, high = np.percentile(voxels[::step, ::step, ::step], _PERCENTILES)
    labelled = voxels[is_labelled] if is_labelled is not None else voxels[:0]
    labelled = labelled[:: max(1, labelled.size // _NUM_SAMPLED_VOXELS)]
    return ChannelMeasures(float(low), float(high), float(np.median(labelled)) if labelled.size else None)
