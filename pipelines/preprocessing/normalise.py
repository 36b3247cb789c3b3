"""Intensity normalisation by channel scheme (nnU-Net v2).

Schemes:
    ct             clip to the training foreground's 0.5 and 99.5 percentiles, subtract its mean, divide by its std
    zscore         mean and std of this case: of the whole crop, or of the voxels inside the mask; outside stays
    rescale_to_0_1 subtract the minimum, divide by the range
    rgb_to_0_1     0..255 to 0..1
    nonorm         unchanged
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

_SMALLEST_DIVISOR = 1e-8


def normalise(
    image: np.ndarray,
    inside: np.ndarray,
    schemes: Sequence[str],
    uses_nonzero_mask: Sequence[bool],
    intensity: Sequence[Mapping[str, float]],
) -> np.ndarray:
    """Normalise every channel by its scheme.

    Args:
        image: (C, Z, Y, X) cropped image.
        inside: (Z, Y, X) bool, true where the mask rule takes its statistics (nnU-Net: stored label >= 0).
        schemes: per channel, a name of the module's list.
        uses_nonzero_mask: per channel; matters for zscore.
        intensity: per channel, the training foreground's mean, std, percentile_00_5, percentile_99_5 (read by ct).

    Returns:
        A new float32 array (C, Z, Y, X).

    Raises:
        ValueError: an unknown scheme, a channel count that differs, or an image that breaks its scheme's range.
    """
    if len(image) != len(schemes):
        raise ValueError(
            f"the image has {len(image)} channels, the plan normalises {len(schemes)} ({list(schemes)}); "
            "every case needs the channels of the data set"
        )
    result = np.empty(image.shape, np.float32)
    for channel, scheme in enumerate(schemes):
        if scheme not in _SCHEMES:
            raise ValueError(f"unknown normalisation {scheme!r} of channel {channel}; choose from {sorted(_SCHEMES)}")
        mask = inside if uses_nonzero_mask[channel] else None
        result[channel] = _SCHEMES[scheme](image[channel].astype(np.float32), mask, intensity[channel])
    return result


def _ct(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> np.ndarray:
    clipped = np.clip(values, intensity["percentile_00_5"], intensity["percentile_99_5"])
    return (clipped - intensity["mean"]) / max(intensity["std"], _SMALLEST_DIVISOR)


def _zscore(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> np.ndarray:
    where: np.ndarray | slice = slice(None) if mask is None else mask
    chosen = values[where]
    if chosen.size == 0:
        return values
    # float32 sums lose digits on raw values in the millions.
    mean = chosen.mean(dtype=np.float64)
    std = chosen.std(dtype=np.float64)
    values[where] = (chosen - mean) / max(std, _SMALLEST_DIVISOR)
    return values


def _rescale_to_0_1(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> np.ndarray:
    shifted = values - values.min()
    return shifted / max(shifted.max(), _SMALLEST_DIVISOR)


def _rgb_to_0_1(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> np.ndarray:
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        raise ValueError(
            f"rgb_to_0_1 needs values in 0..255, found {low:g}..{high:g}; name the channel something else for a z-score"
        )
    return values / 255


def _nonorm(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> np.ndarray:
    return values


_SCHEMES: dict[str, Callable[[np.ndarray, np.ndarray | None, Mapping[str, float]], np.ndarray]] = {
    "ct": _ct,
    "zscore": _zscore,
    "rescale_to_0_1": _rescale_to_0_1,
    "rgb_to_0_1": _rgb_to_0_1,
    "nonorm": _nonorm,
}
