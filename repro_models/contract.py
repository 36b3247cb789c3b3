"""What an architecture file exports.

An architecture is one file in a family folder. It exports

    PAPER        where it was published
    Config       frozen dataclass; its defaults are the paper's main setting
    VARIANTS     published sizes, plus `tiny` for tests
    CONSTRAINTS  spatial dimensions it serves, and the sides it accepts
    build        `build(config, problem) -> torch.nn.Module`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """Publication behind an architecture."""

    title: str
    year: int
    address: str
    reference_code: str | None = None


@dataclass(frozen=True)
class Problem:
    """What a data set asks of a network.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: image channels.
        num_classes: output channels, background included.
    """

    spatial_dims: int
    in_channels: int
    num_classes: int


@dataclass(frozen=True)
class Variant:
    """A size of an architecture.

    Attributes:
        config: the architecture's `Config`.
        problem: the problem at which `num_parameters` was counted.
        num_parameters: exact parameter count, or None where none is published or measured.
        source: where the count comes from.
    """

    config: Any
    problem: Problem
    num_parameters: int | None
    source: str


class IllegalSizeError(ValueError):
    """An image side that an architecture cannot take."""


@dataclass(frozen=True)
class Constraints:
    """Sides an architecture accepts.

    Attributes:
        spatial_dims: the spatial dimensions it serves.
        divisor: `divisor(config) -> per-axis divisor` of a legal side (one int serves all axes).
        smallest_side: `smallest_side(config) -> per-axis smallest legal side` (one int serves all axes).
    """

    spatial_dims: tuple[int, ...]
    divisor: Any
    smallest_side: Any

    def per_axis(self, config: Any, spatial_dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Divisors and smallest sides, one per axis."""

        def spread(value: int | Sequence[int]) -> tuple[int, ...]:
            return (value,) * spatial_dims if isinstance(value, int) else tuple(value)

        return spread(self.divisor(config)), spread(self.smallest_side(config))

    def check_size(self, config: Any, size: Sequence[int]) -> None:
        """Raise `IllegalSizeError` unless every side of `size` is legal."""
        divisors, smallest = self.per_axis(config, len(size))
        for axis, (side, divisor, least) in enumerate(zip(size, divisors, smallest, strict=True)):
            if side % divisor or side < least:
                raise IllegalSizeError(
                    f"image size {tuple(size)}: side {side} of axis {axis} must be a multiple of {divisor} "
                    f"and at least {least}; pad the image to {max(least, -(-side // divisor) * divisor)}"
                )
