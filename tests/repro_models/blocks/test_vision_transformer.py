from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.vision_transformer import TransformerBlock, VisionTransformer, check_heads, tokens_as_map


def transformer(**changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 8, "mlp_size": 12, "num_heads": 2, "num_blocks": 3}
    image: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "grid": (2, 3), "token_side": 4}
    return VisionTransformer(**(image | sizes | changes)).eval()


def test_a_block_whose_last_layers_give_nothing_passes_its_tokens() -> None:
    block = TransformerBlock(8, 16, 2)
    for layer in (block.projection, block.mlp[2]):
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    tokens = torch.randn(2, 5, 8)
    assert torch.equal(block(tokens), tokens)


def test_tokens_that_are_alike_attend_to_their_mean() -> None:
    # With keys of nothing all weights are equal, so attention gives every token the mean of the values.
    block = TransformerBlock(4, 8, 2).double()
    with torch.no_grad():
        block.query_key_value.weight[4:8] = 0
        block.query_key_value.bias[4:8] = 0
    tokens = torch.randn(1, 3, 4, dtype=torch.float64)
    values = functional.linear(block.attention_norm(tokens), block.query_key_value.weight, block.query_key_value.bias)
    after = tokens + block.projection(values[..., 8:].mean(1, keepdim=True))
    torch.testing.assert_close(block(tokens), after + block.mlp(block.mlp_norm(after)))


def test_heads_attend_by_their_own_part_of_the_hidden_size() -> None:
    block = TransformerBlock(4, 8, 2).double()
    tokens = torch.randn(1, 3, 4, dtype=torch.float64)
    query, key, value = block.query_key_value(block.attention_norm(tokens)).chunk(3, dim=-1)
    heads = []
    for part in (slice(0, 2), slice(2, 4)):
        weights = (query[..., part] @ key[..., part].mT / 2**0.5).softmax(-1)
        heads.append(weights @ value[..., part])
    after = tokens + block.projection(torch.cat(heads, dim=-1))
    torch.testing.assert_close(block(tokens), after + block.mlp(block.mlp_norm(after)))


@pytest.mark.parametrize(("has_bias", "num_biases"), [(True, 24), (False, 0)])
def test_query_key_and_value_have_biases_if_asked(has_bias: bool, num_biases: int) -> None:
    names = dict(TransformerBlock(8, 16, 2, has_query_key_value_bias=has_bias).named_parameters())
    assert (names["query_key_value.bias"].numel() if has_bias else 0) == num_biases
    assert ("query_key_value.bias" in names) == has_bias


def test_weights_have_the_same_names_with_and_without_dropout() -> None:
    assert list(TransformerBlock(8, 16, 2).state_dict()) == list(TransformerBlock(8, 16, 2, dropout=0.5).state_dict())


def test_dropout_acts_in_training_only() -> None:
    x = torch.randn(1, 1, 8, 12)
    network = transformer(dropout=0.5)
    assert torch.equal(network(x, {3})[0], transformer()(x, {3})[0])
    assert not torch.equal(network.train()(x, {3})[0], network(x, {3})[0])


def test_without_dropout_training_draws_no_random_number() -> None:
    network = transformer().train()
    torch.manual_seed(5)
    network(torch.randn(1, 1, 8, 12), {3})
    drawn = torch.rand(())
    torch.manual_seed(5)
    torch.randn(1, 1, 8, 12)
    assert drawn == torch.rand(())


def test_states_leave_after_the_blocks_that_are_named_in_their_order() -> None:
    network = transformer()
    after: list[Tensor] = []
    for block in network.blocks:
        block.register_forward_hook(lambda _, __, output: after.append(output))
    states = network(torch.randn(2, 1, 8, 12), (3, 1))
    assert len(states) == 2
    assert torch.equal(states[0], after[0])
    assert torch.equal(states[1], after[2])


@pytest.mark.parametrize("has_class_token", [False, True])
def test_a_token_has_the_place_of_its_square(has_class_token: bool) -> None:
    network = transformer(has_class_token=has_class_token)
    seen: list[Tensor] = []
    network.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.zeros(1, 1, 8, 12)
    network(x, {1})
    x[:, :, 4:, 8:] = 1
    network(x, {1})
    changed = (seen[1] - seen[0]).abs().sum(-1)[0] > 0
    assert changed.tolist() == [False] * has_class_token + [False] * 5 + [True]


def test_the_class_token_comes_first_is_seen_by_all_and_does_not_leave() -> None:
    network = transformer(has_class_token=True)
    x = torch.randn(1, 1, 8, 12)
    before = network(x, {1})[0]
    assert before.shape == (1, 6, 8)
    nn.init.normal_(network.class_token, std=5)
    assert ((network(x, {1})[0] - before).abs().sum(-1) > 0).all()
    assert network.positions.shape == (1, 7, 8)


def test_a_map_has_its_tokens_in_rows() -> None:
    tokens = torch.arange(12.0).reshape(1, 6, 2)
    assert tokens_as_map(tokens, (2, 3))[0, 0].tolist() == [[0, 2, 4], [6, 8, 10]]


def test_three_dimensions_have_a_token_for_each_cube() -> None:
    network = transformer(spatial_dims=3, grid=(2, 1, 3))
    assert network(torch.zeros(2, 1, 8, 4, 12), {2})[0].shape == (2, 6, 8)


def test_heads_that_do_not_share_evenly_are_refused() -> None:
    check_heads(12, 4)
    with pytest.raises(ValueError, match=r"hidden_size=12 and num_heads=5: .* set hidden_size to a multiple of 5"):
        check_heads(12, 5)
