"""Sides of images for networks whose weights are made for one size, as learned positions make them.

Their `Config` has a field `image_size`: one int for all axes, or one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repro_models.contract import Constraints, IllegalSizeError


def sides_of(image_size: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """`image_size`, one per axis."""
    return (image_size,) * spatial_dims if isinstance(image_size, int) else tuple(image_size)


@dataclass(frozen=True)
class OneImageSize(Constraints):
    """A network takes images of its own size only."""

    def check_size(self, config: Any, size: Sequence[int]) -> None:
        """Raise `IllegalSizeError` unless `size` is the `image_size` of `config`."""
        super().check_size(config, size)
        for axis, (side, expected) in enumerate(zip(size, sides_of(config.image_size, len(size)), strict=True)):
            if side != expected:
                raise IllegalSizeError(
                    f"image size {tuple(size)}: side {side} of axis {axis} must be {expected}, for which this network "
                    f"has positions; cut the image into tiles, or train a network with image_size {tuple(size)}"
                )

    def check_config(self, config: Any, spatial_dims: int) -> None:
        """Raise unless `config.image_size` has a legal side for each axis.

        Raises:
            ValueError: too few sides or too many.
            IllegalSizeError: a side that no network of this form takes.
        """
        sides = sides_of(config.image_size, spatial_dims)
        if len(sides) != spatial_dims:
            raise ValueError(
                f"image_size={config.image_size}: has {len(sides)} sides, but the network is {spatial_dims}D; "
                f"give one int, or {spatial_dims} of them"
            )
        self.check_size(config, sides)
