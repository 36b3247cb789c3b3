"""What U-Nets without padding need: the sides they accept, and the centre of a skip connection.

A level of two unpadded convolutions of side 3 takes 4 voxels off a side, and a pooling halves it, so a side stays whole
only at the smallest legal one and every divisor after it.

Shapes:
    B batch, C channels, *s voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from repro_models.contract import Constraints, IllegalSizeError


def smallest_valid_side(num_levels: int) -> int:
    """Smallest side of an image for an unpadded U-Net, of which 4 voxels come out; the rest is what every image loses.

    The lowest level then has 8 voxels a side before its convolutions and 4 after them; fewer do not survive the way up.
    """
    return 12 * 2 ** (num_levels - 1) - 4


@dataclass(frozen=True)
class PaddedOrValidSides(Constraints):
    """Sides of a network whose `Config` has `is_padded`: without padding, the smallest one plus multiples."""

    def check_size(self, config: Any, size: Sequence[int]) -> None:
        """Raise `IllegalSizeError` unless every side of `size` is legal."""
        if config.is_padded:
            super().check_size(config, size)
            return
        divisors, smallest = self.per_axis(config, len(size))
        for axis, (side, divisor, least) in enumerate(zip(size, divisors, smallest, strict=True)):
            if side < least or (side - least) % divisor:
                raise IllegalSizeError(
                    f"image size {tuple(size)}: side {side} of axis {axis} must be {least} plus a multiple of "
                    f"{divisor} where convolutions are not padded; pad the image to "
                    f"{least + max(0, -(-(side - least) // divisor)) * divisor}, or set is_padded=True"
                )


def centre(x: Tensor, size: Sequence[int]) -> Tensor:
    """Centre of (B, C, *s) with `size` voxels."""
    for axis, side in enumerate(size, start=2):
        x = x.narrow(axis, (x.shape[axis] - side) // 2, side)
    return x
