from __future__ import annotations

from dataclasses import dataclass

import pytest

from repro_models.contract import Constraints, IllegalSizeError


@dataclass(frozen=True)
class Config:
    divisor: int | tuple[int, ...] = 8
    smallest_side: int | tuple[int, ...] = 16


CONSTRAINTS = Constraints((2, 3), divisor=lambda c: c.divisor, smallest_side=lambda c: c.smallest_side)


def test_one_number_serves_all_axes() -> None:
    assert CONSTRAINTS.per_axis(Config(), 3) == ((8, 8, 8), (16, 16, 16))
    assert CONSTRAINTS.per_axis(Config((1, 4), 4), 2) == ((1, 4), (4, 4))


@pytest.mark.parametrize(("config", "size"), [(Config(), (16, 24, 160)), (Config((1, 8), (1, 8)), (3, 8))])
def test_a_legal_size_passes(config: Config, size: tuple[int, ...]) -> None:
    CONSTRAINTS.check_size(config, size)


@pytest.mark.parametrize(
    ("config", "size", "axis", "padded"),
    [
        (Config(), (16, 20, 16), 1, 24),
        (Config(), (8, 16, 16), 0, 16),
        (Config(), (16, 16, 1), 2, 16),
        (Config((1, 4), 4), (4, 5), 1, 8),
    ],
)
def test_an_illegal_side_is_told_with_what_to_pad_to(
    config: Config, size: tuple[int, ...], axis: int, padded: int
) -> None:
    with pytest.raises(IllegalSizeError) as error:
        CONSTRAINTS.check_size(config, size)
    assert f"side {size[axis]} of axis {axis}" in str(error.value)
    assert str(error.value).endswith(f"pad the image to {padded}")
    CONSTRAINTS.check_size(config, (*size[:axis], padded, *size[axis + 1 :]))
