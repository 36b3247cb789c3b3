"""How each channel is normalised, from its name (nnU-Net's rule)."""

from __future__ import annotations

from collections.abc import Sequence

_SCHEMES = ("ct", "nonorm", "zscore", "rescale_to_0_1", "rgb_to_0_1")
_MASK_BELOW_RELATIVE_SIZE = 0.75


def normalisation_schemes(channels: Sequence[str]) -> tuple[str, ...]:
    """Scheme of each channel: one that is called like a scheme gets that scheme, all others get `zscore`."""
    return tuple(name.casefold() if name.casefold() in _SCHEMES else "zscore" for name in channels)


def nonzero_mask_use(schemes: Sequence[str], median_relative_size: float) -> tuple[bool, ...]:
    """For each channel, whether only the nonzero mask is normalised: where `zscore` meets much empty border."""
    return tuple(scheme == "zscore" and median_relative_size < _MASK_BELOW_RELATIVE_SIZE for scheme in schemes)
