from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from repro_models.losses.deep_supervision import deep_supervision_weights, downsample_target


@pytest.mark.parametrize(
    ("num_outputs", "expected"),
    [(1, [1]), (2, [1, 0]), (3, [2 / 3, 1 / 3, 0]), (5, [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])],
)
def test_weights_halve_with_the_resolution_and_the_coarsest_gets_none(num_outputs: int, expected: list[float]) -> None:
    weights = deep_supervision_weights(num_outputs)
    assert weights == pytest.approx(expected)
    assert sum(weights) == pytest.approx(1)


@pytest.mark.parametrize(("side", "expected"), [(8, list(range(8))), (4, [1, 3, 5, 7]), (2, [2, 6]), (3, [1, 4, 6])])
def test_target_takes_the_voxel_under_each_centre(side: int, expected: list[int]) -> None:
    assert downsample_target(torch.arange(8)[None], (side,)).tolist() == [expected]


@pytest.mark.parametrize("size", [(10, 14, 20), (5, 7, 10), (10, 14, 5), (3, 5, 7)])
def test_target_equals_nearest_exact_interpolation(size: tuple[int, ...]) -> None:
    target = torch.randint(0, 5, (2, 10, 14, 20), generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(target[:, None].double(), size, mode="nearest-exact")[:, 0].long()
    assert torch.equal(downsample_target(target, size), expected)
