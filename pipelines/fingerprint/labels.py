"""What is labelled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.fingerprint.geometry import blocks


def foreground_mask(label: np.ndarray, ignore_label: int | None) -> np.ndarray:
    """Voxels of any class but the background; voxels to ignore are no class."""
    mask = label > 0
    if ignore_label is not None:
        mask &= label != ignore_label
    return mask


def count_voxels(label: np.ndarray, labels: Mapping[str, int]) -> dict[str, int]:
    """Voxels (Z, Y, X) of each class of `labels` (name to value), zero where a class is absent."""
    num_values = max(labels.values()) + 1
    counts = np.zeros(num_values, np.int64)
    for planes in blocks(label.shape):
        block = label[planes]
        counts += np.bincount(block[(block >= 0) & (block < num_values)], minlength=num_values)
    return {name: int(counts[value]) for name, value in labels.items()}
