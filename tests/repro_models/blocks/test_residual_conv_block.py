from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from repro_models.blocks.residual_conv_block import ResidualConvBlock, UpsampleAndJoin, upsampling


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_block_whose_convolutions_give_nothing_passes_its_input(spatial_dims: int) -> None:
    block = ResidualConvBlock(spatial_dims, 3, 3)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 3, *(4,) * spatial_dims)
    torch.testing.assert_close(block(x), functional.leaky_relu(x, 0.01))


def test_other_channels_get_a_shortcut_of_their_own() -> None:
    block = ResidualConvBlock(2, 1, 2)
    for parameter in block.residual.parameters():
        nn.init.zeros_(parameter)
    x = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]])  # mean 2, deviation 1
    nn.init.constant_(block.shortcut[0].weight, 5.0)  # type: ignore[index, union-attr]
    output = block(x)
    expected = torch.tensor([[-0.01, 1.0], [-0.01, 1.0]])
    torch.testing.assert_close(output, expected.expand(1, 2, 2, 2), rtol=1e-5, atol=1e-6)


def test_convolutions_have_no_bias_and_norms_no_weight() -> None:
    block = ResidualConvBlock(3, 2, 4)
    assert sum(parameter.numel() for parameter in block.parameters()) == 27 * 2 * 4 + 27 * 4 * 4 + 2 * 4


def test_upsampling_doubles_every_side() -> None:
    assert upsampling(3, 4, 2)(torch.zeros(1, 4, 2, 3, 4)).shape == (1, 2, 4, 6, 8)


def test_the_coarse_map_comes_before_the_skip_connection() -> None:
    step = UpsampleAndJoin(2, 4, 2)
    seen: list[torch.Tensor] = []
    step.block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    skip = torch.randn(1, 2, 6, 4)
    assert step(torch.randn(1, 4, 3, 2), skip).shape == (1, 2, 6, 4)
    assert torch.equal(seen[0][:, 2:], skip)
