from __future__ import annotations

import pytest
import torch
from torch import nn

from repro_models.blocks.patch_expanding import PatchExpanding


def test_channels_are_read_as_place_then_channel() -> None:
    expanding = PatchExpanding(2, 8, 2)
    expanding.expansion, expanding.norm = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    x = torch.arange(16).reshape(1, 2, 1, 8)
    expected = [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [10, 11]], [[12, 13], [14, 15]]]
    assert expanding(x)[0].tolist() == expected


@pytest.mark.parametrize(("spatial_dims", "factor"), [(2, 4), (3, 2)])
def test_sides_grow_by_the_factor_and_every_patch_is_normalised(spatial_dims: int, factor: int) -> None:
    y = PatchExpanding(spatial_dims, 6, 16, factor)(torch.randn(2, *range(2, 2 + spatial_dims), 6))
    assert y.shape == (2, *(factor * side for side in range(2, 2 + spatial_dims)), 16)
    torch.testing.assert_close(y.mean(-1), torch.zeros(y.shape[:-1]), rtol=0, atol=1e-5)
