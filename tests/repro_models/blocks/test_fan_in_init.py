from __future__ import annotations

import pytest
import torch
from torch import nn

from repro_models.blocks.fan_in_init import init_by_fan_in, num_incoming


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (nn.Conv2d(3, 5, 3), 27),
        (nn.Conv3d(4, 8, (1, 3, 3), groups=2), 18),
        (nn.ConvTranspose2d(6, 2, 2, stride=2), 6),
        (nn.ConvTranspose2d(6, 2, 4, stride=2, padding=1), 24),
    ],
    ids=["2d", "groups", "transposed", "transposed-4"],
)
def test_incoming_values_are_those_that_reach_an_output(conv: nn.Module, expected: int) -> None:
    assert num_incoming(conv) == expected
    # With all weights 1, an output inside of a map of ones is the number of its incoming values.
    assert isinstance(conv, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d))
    nn.init.ones_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    dims = 3 if isinstance(conv, nn.Conv3d) else 2
    output = conv(torch.ones(1, conv.in_channels, *[8] * dims))
    assert output[(0, 0, *[4] * dims)].item() == expected


@pytest.mark.parametrize("gain", [1.0, 2.0])
def test_weights_have_the_variance_of_the_gain_over_incoming_values(gain: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 64, 3), nn.BatchNorm2d(64), nn.ConvTranspose2d(64, 32, 2, stride=2))
    init_by_fan_in(network, gain)
    first, norm, last = network
    assert first.weight.var().item() == pytest.approx(gain / 72, rel=0.1)
    assert last.weight.var().item() == pytest.approx(gain / 64, rel=0.1)
    assert not first.bias.any()
    assert not last.bias.any()
    assert (norm.weight == 1).all()
