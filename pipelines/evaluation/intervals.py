"""Confidence intervals of a mean over cases, by resampling patients."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence

import numpy as np


def bootstrap_interval(
    values: Sequence[float], groups: Sequence[Hashable], num_samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `values` with the 95 % percentile interval of the bootstrap over groups (Efron and Tibshirani, 1993).

    Whole groups are drawn with replacement, because the cases of one patient are no independent witnesses. The mean
    is over cases, so a drawn patient weighs by the number of its cases.

    Args:
        values: one value a case; NaN is left out.
        groups: patient of each case.
        num_samples: bootstrap samples.
        seed: seed of the draws.

    Returns:
        (mean, low, high); three NaN when no value is left. One patient gives low = mean = high.
    """
    assert len(values) == len(groups), (len(values), len(groups))
    kept: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if not math.isnan(value):
            kept.setdefault(group, []).append(value)
    if not kept:
        return math.nan, math.nan, math.nan
    sums = np.array([math.fsum(members) for members in kept.values()])
    sizes = np.array([len(members) for members in kept.values()])
    drawn = _drawn(len(sums), num_samples, seed)
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sums.sum() / sizes.sum()), float(low), float(high)


@functools.lru_cache(maxsize=1)
def _drawn(num_groups: int, num_samples: int, seed: int) -> np.ndarray:
    """Groups of every sample, (num_samples, num_groups); kept, because one comparison asks for the same again."""
    return np.random.default_rng(seed).integers(num_groups, size=(num_samples, num_groups))
