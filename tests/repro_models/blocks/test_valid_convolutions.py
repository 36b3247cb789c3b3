from __future__ import annotations

import pytest
import torch

from repro_models.blocks.valid_convolutions import centre, smallest_valid_side


def output_side(side: int, num_levels: int) -> int | None:
    """Of an unpadded U-Net by its rules; None where a side is odd or gone on the way."""
    for _ in range(num_levels - 1):
        side -= 4
        if side <= 0 or side % 2:
            return None
        side //= 2
    for _ in range(num_levels - 1):
        side = 2 * (side - 4)
        if side <= 0:
            return None
    return side - 4 if side > 4 else None


@pytest.mark.parametrize("num_levels", [2, 3, 4, 5])
def test_legal_sides_go_on_from_the_smallest_by_the_divisor(num_levels: int) -> None:
    least, divisor = smallest_valid_side(num_levels), 2 ** (num_levels - 1)
    assert output_side(least, num_levels) == 4
    for side in range(least, least + 4 * divisor):
        assert (output_side(side, num_levels) is not None) is ((side - least) % divisor == 0)
    assert output_side(least + divisor, num_levels) == 4 + divisor


@pytest.mark.parametrize("num_levels", [3, 4, 5])
def test_from_three_levels_on_no_smaller_side_gives_anything(num_levels: int) -> None:
    assert all(output_side(side, num_levels) is None for side in range(smallest_valid_side(num_levels)))


def test_the_centre_leaves_as_much_on_both_sides() -> None:
    x = torch.arange(36.0).view(1, 1, 6, 6)
    assert torch.equal(centre(x, (2, 4)), x[:, :, 2:4, 1:5])
