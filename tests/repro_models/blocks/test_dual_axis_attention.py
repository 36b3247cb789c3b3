from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from repro_models.blocks.dual_axis_attention import DualAxisAttention

SIDES = (3, 4)


def attention(has_scrambled_tokens: bool = False) -> Any:
    torch.manual_seed(0)
    network = DualAxisAttention(4, 2, SIDES, has_scrambled_tokens).double()
    for axis in (network.rows, network.columns):
        torch.nn.init.normal_(axis.position_bias)
    return network


def weights_by_hand(axis: Any, x: Tensor, mean_over: int, head: int) -> Tensor:
    query = axis.query(functional.conv2d(x, axis.query_conv.weight, axis.query_conv.bias, 1, 1, 1, 4).mean(mean_over).T)
    key = axis.key(functional.conv2d(x, axis.key_conv.weight, axis.key_conv.bias, 1, 1, 1, 4).mean(mean_over).T)
    part = slice(2 * head, 2 * head + 2)
    return (query[:, part] @ key[:, part].T / 2**0.5 + axis.position_bias[0, head]).softmax(1)


def test_values_are_mixed_along_rows_and_columns_in_each_head() -> None:
    network = attention()
    x = torch.randn(4, *SIDES, dtype=torch.float64)
    value = network.value(network.value_conv(x).movedim(0, -1))
    mixed = torch.empty(*SIDES, 4, dtype=torch.float64)
    for head in range(2):
        rows = weights_by_hand(network.rows, x, 2, head)
        columns = weights_by_hand(network.columns, x, 1, head)
        for channel in (2 * head, 2 * head + 1):
            mixed[..., channel] = rows @ value[..., channel] @ columns
    torch.testing.assert_close(network(x[None])[0], network.projection(mixed).movedim(-1, 0))


def test_the_authors_form_reads_the_same_numbers_as_channels_and_tokens() -> None:
    ours, theirs = attention(), attention(has_scrambled_tokens=True)
    x = torch.randn(1, 4, *SIDES, dtype=torch.float64)
    assert not torch.allclose(ours(x), theirs(x))
    torch.testing.assert_close(ours(x).movedim(1, -1).flatten(), theirs(x).flatten())


def test_position_biases_start_at_0() -> None:
    network = DualAxisAttention(4, 2, SIDES, has_scrambled_tokens=False)
    assert not network.rows.position_bias.any()
    assert network.rows.position_bias.shape == (1, 2, 3, 3)
    assert network.columns.position_bias.shape == (1, 2, 4, 4)
