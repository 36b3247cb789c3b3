"""What is labelled."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def foreground_mask(label: np.ndarray, ignore_label: int | None) -> np.ndarray:
    """Voxels of any class but the background; voxels to ignore are no class."""
    mask = label > 0
    if ignore_label is not None:
        mask &= label != ignore_label
    return mask


def count_voxels(label: np.ndarray, labels: Mapping[str, int]) -> dict[str, int]:
    """Voxels of each class of `labels` (name to value), zero where a class is absent."""
    counts = np.bincount(label[label >= 0].ravel(), minlength=max(labels.values()) + 1)
    return {name: int(counts[value]) for name, value in labels.items()}
