from __future__ import annotations

import torch
from torch import nn

from repro_models.blocks.swin_block import SwinBlock, start_linear_layers
from repro_models.blocks.window_attention import WindowAttention


def test_a_sample_that_goes_around_both_parts_is_unchanged() -> None:
    torch.manual_seed(0)
    block = SwinBlock(4, 2, WindowAttention(4, 2, (2, 2), is_shifted=False), drop_path_probability=0.5).train()
    x = torch.randn(64, 2, 2, 4)
    is_unchanged = (block(x) == x).flatten(1).all(1)
    # A quarter is expected.
    assert 4 <= is_unchanged.sum().item() <= 32
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


def test_parts_are_normalised_before_and_added_after() -> None:
    block = SwinBlock(4, 2, nn.Identity())
    x = torch.randn(1, 3, 3, 4)
    after_attention = x + block.attention_norm(x)
    torch.testing.assert_close(block(x), after_attention + block.mlp(block.mlp_norm(after_attention)))


def test_linear_layers_start_small_and_other_layers_as_they_were() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(100, 200), nn.Linear(200, 100, bias=False), nn.Conv2d(1, 1, 3))
    before = network[2].weight.clone()
    start_linear_layers(network)
    for layer in network[:2]:
        assert 0.019 < layer.weight.std().item() < 0.021
    assert not network[0].bias.any()
    assert torch.equal(network[2].weight, before)
