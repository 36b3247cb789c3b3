"""Intensities inside the labelled foreground."""

from __future__ import annotations

import hashlib

import numpy as np

STATISTICS = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")


def foreground_values(image: np.ndarray, foreground: np.ndarray, max_values: int, case_id: str) -> np.ndarray:
    """Intensities of the foreground voxels, all of them or `max_values` drawn without replacement.

    The draw is seeded by the case's name: it does not depend on the order or number of cases.

    Args:
        image: (C, Z, Y, X).
        foreground: (Z, Y, X) bool.
        max_values: most values of one channel.
        case_id: seeds the draw.

    Returns:
        (C, n) float32; the same voxels for every channel.
    """
    positions = np.flatnonzero(foreground)
    if positions.size > max_values:
        seed = int.from_bytes(hashlib.sha256(case_id.encode()).digest()[:8], "big")
        positions = np.random.default_rng(seed).choice(positions, max_values, replace=False, shuffle=False)
    return image.reshape(len(image), -1)[:, positions].astype(np.float32)


def statistics(values: np.ndarray) -> dict[str, float]:
    """Summary of the intensities (n,) of one channel; every key of `STATISTICS`, NaN where there is no value."""
    if not values.size:
        return dict.fromkeys(STATISTICS, float("nan"))
    low, median, high = np.percentile(values, (0.5, 50, 99.5)).tolist()
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "median": median,
        "std": float(values.std(dtype=np.float64)),
        "min": float(values.min()),
        "max": float(values.max()),
        "percentile_00_5": low,
        "percentile_99_5": high,
    }
