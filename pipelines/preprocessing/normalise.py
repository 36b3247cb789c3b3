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
_BLOCK_VALUES = 2**18


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
        result[channel] = image[channel]
        _SCHEMES[scheme](result[channel], inside if uses_nonzero_mask[channel] else None, intensity[channel])
    return result


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of one value or more, in float64 but without a float64 copy of all."""
    flat = values.reshape(-1)
    blocks = [flat[low : low + _BLOCK_VALUES] for low in range(0, flat.size, _BLOCK_VALUES)]
    mean = np.float64(sum(float(block.sum(dtype=np.float64)) for block in blocks) / flat.size)
    variance = sum(float(np.square(block - mean).sum()) for block in blocks) / flat.size
    return float(mean), variance**0.5


# Each changes its values in place.
def _ct(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> None:
    np.clip(values, intensity["percentile_00_5"], intensity["percentile_99_5"], out=values)
    values -= intensity["mean"]
    values /= max(intensity["std"], _SMALLEST_DIVISOR)


def _zscore(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> None:
    chosen = values if mask is None else values[mask]
    if chosen.size == 0:
        return
    mean, std = mean_and_std(chosen)
    # In float64: float32 loses digits on raw values in the millions.
    np.subtract(chosen, np.float64(mean), out=chosen, casting="same_kind")
    chosen /= max(std, _SMALLEST_DIVISOR)
    if mask is not None:
        values[mask] = chosen


def _rescale_to_0_1(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> None:
    values -= values.min()
    values /= max(values.max(), _SMALLEST_DIVISOR)


def _rgb_to_0_1(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> None:
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        raise ValueError(
            f"rgb_to_0_1 needs values in 0..255, found {low:g}..{high:g}; name the channel something else for a z-score"
        )
    values /= 255


def _nonorm(values: np.ndarray, mask: np.ndarray | None, intensity: Mapping[str, float]) -> None:
    pass


_SCHEMES: dict[str, Callable[[np.ndarray, np.ndarray | None, Mapping[str, float]], None]] = {
    "ct": _ct,
    "zscore": _zscore,
    "rescale_to_0_1": _rescale_to_0_1,
    "rgb_to_0_1": _rgb_to_0_1,
    "nonorm": _nonorm,
}
