from __future__ import annotations

import pytest
import torch
from torch import nn

from repro_models.blocks.patch_merging import PatchMerging


def joined(merging: PatchMerging, x: torch.Tensor) -> torch.Tensor:
    """The neighbours as they are put side by side."""
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return merging(x)


def test_the_neighbours_of_a_patch_in_2d_are_in_the_order_of_the_swin_transformer() -> None:
    x = torch.arange(16).reshape(1, 4, 4, 1)
    expected = [[[0, 4, 1, 5], [2, 6, 3, 7]], [[8, 12, 9, 13], [10, 14, 11, 15]]]
    assert joined(PatchMerging(2, 1), x)[0].tolist() == expected


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        (None, [0, 4, 2, 1, 6, 5, 3, 7]),
        ([(1, 1, 1), (0, 0, 0), (1, 1, 1)], [7, 0, 7]),
    ],
)
def test_neighbours_in_3d_are_those_asked_for(corners: list[tuple[int, ...]] | None, expected: list[int]) -> None:
    assert joined(PatchMerging(3, 1, corners), torch.arange(8).reshape(1, 2, 2, 2, 1)).flatten().tolist() == expected


def test_channels_double_as_sides_halve() -> None:
    assert PatchMerging(3, 5)(torch.randn(2, 4, 6, 2, 5)).shape == (2, 2, 3, 1, 10)
