from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repro_models.blocks.mamba_in_convolution import MambaInConvolution, ResidualUnit, conv_norm_3d, halving_stem


class _Cumulative(nn.Module):
    """Of each step the sum of itself and those before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.cumsum(1)


def test_the_mixer_sees_voxels_in_order_and_its_result_joins_what_it_saw() -> None:
    layer = MambaInConvolution(6, _Cumulative).double().eval()
    assert isinstance(layer.mixer, _Cumulative)
    assert layer.mixer.channels == 6
    x = torch.randn(2, 6, 2, 3, 4, dtype=torch.float64)
    seen = layer.entry(x)
    assert seen.min() >= 0
    y = layer(x)
    torch.testing.assert_close(y, layer.exit(seen + seen.reshape(2, 6, 24).cumsum(2).reshape(x.shape)))
    assert y.min() >= 0


def test_the_layer_of_a_mixer_has_two_pointwise_convolutions_without_bias() -> None:
    layer = MambaInConvolution(6, _Cumulative)
    assert sum(parameter.numel() for parameter in layer.parameters()) == 2 * (6 * 6 + 2 * 6)


def test_the_halving_unit_has_a_strided_convolution_beside_it() -> None:
    unit: Any = ResidualUnit(4, 8).eval()
    conv, norm = unit.shortcut
    x = torch.randn(1, 4, 4, 6, 8)
    with torch.no_grad():
        expected = (unit.residual(x) + norm(nn.functional.conv3d(x, conv.weight, stride=2))).relu()
        torch.testing.assert_close(unit(x), expected)


def test_the_context_joins_the_residual_before_the_activation() -> None:
    unit = ResidualUnit(4, 4).eval()
    x, context = torch.randn(2, 1, 4, 3, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(unit(x, context), (unit.residual(x) + context + x).relu())


@pytest.mark.parametrize("size", [(8, 6, 4), (5, 7, 1)])
def test_stem_and_unit_halve_and_round_up(size: tuple[int, int, int]) -> None:
    half = tuple(-(-side // 2) for side in size)
    x = torch.randn(1, 4, *size)
    with torch.no_grad():
        assert halving_stem(4, 8).eval()(x).shape == (1, 8, *half)
        assert ResidualUnit(4, 8).eval()(x).shape == (1, 8, *half)
        assert ResidualUnit(4, 4).eval()(x).shape == x.shape


@pytest.mark.parametrize(("has_bias", "num_parameters"), [(False, 27 * 15 + 10), (True, 27 * 15 + 15)])
def test_the_convolution_has_a_bias_only_on_request(has_bias: bool, num_parameters: int) -> None:
    layer = conv_norm_3d(3, 5, has_bias=has_bias)
    assert sum(parameter.numel() for parameter in layer.parameters()) == num_parameters
