from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipelines.planning.shapes import shapes_only


class Joined(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x[:, :1], x], dim=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv3d(4, 6, 3),
        lambda: nn.Conv3d(4, 6, (1, 3, 5), stride=(1, 2, 2), padding=(0, 1, 2), dilation=(1, 2, 1), groups=2),
        lambda: nn.Conv3d(4, 4, 3, padding="same", dilation=2),
        lambda: nn.ConvTranspose3d(4, 6, (1, 2, 2), stride=(1, 2, 2)),
        lambda: nn.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        lambda: nn.MaxPool3d(2),
        lambda: nn.MaxPool3d((1, 3, 2), stride=2, padding=(0, 1, 1)),
        lambda: nn.MaxPool3d(2, ceil_mode=True),
        lambda: nn.AvgPool3d(2),
        lambda: nn.Sequential(nn.InstanceNorm3d(4, affine=True), nn.LeakyReLU(inplace=True), nn.GroupNorm(2, 4)),
        lambda: nn.Upsample(scale_factor=2, mode="trilinear"),
        Joined,
    ],
)
def test_shapes_are_those_of_a_real_run(make: Callable[[], nn.Module]) -> None:
    expected = make()(torch.zeros(2, 4, 9, 10, 11)).shape
    with shapes_only():
        result = make()(torch.empty(2, 4, 9, 10, 11))
    assert result.shape == expected
    assert result.device.type == "meta"


def test_wrong_skip_connection_is_noticed() -> None:
    with shapes_only(), pytest.raises(AssertionError):
        torch.cat([torch.empty(1, 2, 4, 4), torch.empty(1, 2, 4, 5)], dim=1)
