from __future__ import annotations

from typing import Any

import pytest
import torch

from repro_models.blocks.two_convs import TwoConvs, check_norm


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["Conv2d", "ReLU"]),
        ({"norm": "batch"}, ["Conv2d", "BatchNorm2d", "ReLU"]),
        ({"norm": "instance", "negative_slope": 0.1}, ["Conv2d", "InstanceNorm2d", "LeakyReLU"]),
        ({"dropout_probability": 0.5}, ["Conv2d", "ReLU", "Dropout"]),
    ],
)
def test_layers_stand_in_their_order_twice(settings: dict[str, Any], names: list[str]) -> None:
    assert [type(layer).__name__ for layer in TwoConvs(2, (1, 2, 3), **settings)] == names * 2


@pytest.mark.parametrize(("dims", "is_padded", "side"), [(2, True, 6), (2, False, 2), (3, True, 6), (3, False, 2)])
def test_without_padding_four_voxels_an_axis_are_lost(dims: int, is_padded: bool, side: int) -> None:
    block = TwoConvs(dims, (2, 3, 4), is_padded=is_padded)
    assert block(torch.zeros(1, 2, *[6] * dims)).shape == (1, 4, *[side] * dims)


def test_an_unknown_norm_is_refused() -> None:
    check_norm(None)
    check_norm("batch")
    with pytest.raises(ValueError, match="norm='layer': must be one of batch, instance, or None"):
        check_norm("layer")
