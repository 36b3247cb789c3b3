from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from repro_models.blocks.image_size import OneImageSize, sides_of
from repro_models.contract import IllegalSizeError


@dataclass(frozen=True)
class Config:
    image_size: int | Sequence[int]


CONSTRAINTS = OneImageSize(spatial_dims=(2, 3), divisor=lambda config: 8, smallest_side=lambda config: 16)


@pytest.mark.parametrize(("image_size", "sides"), [(16, (16, 16, 16)), ((16, 24, 32), (16, 24, 32))])
def test_one_number_serves_all_axes(image_size: int | tuple[int, ...], sides: tuple[int, ...]) -> None:
    assert sides_of(image_size, 3) == sides


def test_only_the_size_of_the_network_is_legal() -> None:
    CONSTRAINTS.check_size(Config((16, 24)), (16, 24))
    with pytest.raises(IllegalSizeError, match="side 32 of axis 1 must be 24, for which this network has positions"):
        CONSTRAINTS.check_size(Config((16, 24)), (16, 32))


def test_the_divisor_is_named_before_the_size() -> None:
    with pytest.raises(IllegalSizeError, match="side 20 of axis 0 must be a multiple of 8 and at least 16"):
        CONSTRAINTS.check_size(Config(16), (20, 16))


@pytest.mark.parametrize(
    ("image_size", "message"),
    [
        ((16, 16), "has 2 sides, but the network is 3D; give one int, or 3 of them"),
        (20, "side 20 of axis 0 must be a multiple of 8"),
        (8, "side 8 of axis 0 must be a multiple of 8 and at least 16"),
    ],
)
def test_a_size_that_no_network_takes_is_refused(image_size: int | tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CONSTRAINTS.check_config(Config(image_size), 3)
