from __future__ import annotations

import pytest
import torch
from torch import nn

from repro_models.blocks.conv_norm import conv_norm, conv_norm_relu, separable_conv_norm_relu
from tests.fillings import num_parameters


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(1, 1, 1), (3, 2, 1), (5, 2, 3), (7, 2, 1)])
def test_sides_are_kept_or_halved_rounding_up(kernel_size: int, stride: int, dilation: int) -> None:
    x = torch.zeros(1, 2, 9, 12)
    output = conv_norm(2, 3, kernel_size, stride=stride, dilation=dilation).eval()(x)
    assert output.shape == (1, 3, -(-9 // stride), -(-12 // stride))


def test_no_convolution_has_a_bias() -> None:
    assert num_parameters(conv_norm(2, 3, 3)) == 2 * 3 * 9 + 2 * 3
    assert num_parameters(separable_conv_norm_relu(2, 3)) == (2 * 9 + 2 * 2) + (2 * 3 + 2 * 3)
    assert num_parameters(separable_conv_norm_relu(2, 3, has_inner_norm=False)) == 2 * 9 + (2 * 3 + 2 * 3)


def test_a_separable_convolution_is_depthwise_then_pointwise() -> None:
    unit = separable_conv_norm_relu(2, 1, dilation=2, has_inner_norm=False).eval()
    depthwise, pointwise = (module for module in unit if isinstance(module, nn.Conv2d))
    for conv in (depthwise, pointwise):
        nn.init.ones_(conv.weight)
    pointwise.weight.data[:, 1] = 10.0
    x = torch.zeros(1, 2, 5, 5)
    x[0, 0, 2, 2], x[0, 1, 0, 0] = 1.0, 1.0
    expected = torch.zeros(5, 5)
    expected[::2, ::2] = 1.0
    expected[:3:2, :3:2] += 10.0
    # Batch normalisation divides by the root of 1 + 1e-5.
    torch.testing.assert_close(unit(x)[0, 0], expected, rtol=1e-5, atol=1e-6)


def test_relu_comes_last() -> None:
    unit = conv_norm_relu(1, 1).eval()
    nn.init.constant_(unit[0].weight, -1.0)  # type: ignore[arg-type]
    assert unit(torch.ones(1, 1, 2, 2)).eq(0).all()
