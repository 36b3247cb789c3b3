"""GAT on a graph of five nodes, with equations 1 to 6 written out node by node."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.contract import GraphProblem
from repro_models.graph.gat import Config, build

# A path 0 - 1 - 2, a link 2 - 3, and node 4 alone.
NEIGHBOURS = {0: [0, 1], 1: [0, 1, 2], 2: [1, 2, 3], 3: [2, 3], 4: [4]}
EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])


def network_of(**changes: Any) -> Any:
    torch.manual_seed(0)
    network = build(Config(num_heads=2, features_per_head=3, **changes), GraphProblem(4, 2)).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network


def by_hand(head: Any, x: Tensor) -> Tensor:
    features, biases = x @ head.weight, 0
    if hasattr(head, "target_bias"):
        biases = head.target_bias + head.source_bias
    rows = []
    for node, neighbours in NEIGHBOURS.items():
        scores = [
            features[node] @ head.target_attention + features[other] @ head.source_attention + biases
            for other in neighbours
        ]
        attention = functional.leaky_relu(torch.stack(scores), 0.2).softmax(0)
        rows.append(
            sum(share * features[other] for share, other in zip(attention, neighbours, strict=True)) + head.bias
        )
    return torch.stack(rows)


@pytest.mark.parametrize("has_attention_bias", [True, False])
@pytest.mark.parametrize("num_output_heads", [1, 2])
def test_the_logits_are_those_of_the_formula(has_attention_bias: bool, num_output_heads: int) -> None:
    network = network_of(has_attention_bias=has_attention_bias, num_output_heads=num_output_heads)
    x = torch.rand(5, 4)
    hidden = torch.cat([functional.elu(by_hand(head, x)) for head in network.heads], dim=1)
    expected = sum(by_hand(head, hidden) for head in network.output_heads) / num_output_heads
    torch.testing.assert_close(network(x, EDGES), expected)


@pytest.mark.parametrize("probability", ["dropout_probability", "attention_dropout_probability"])
def test_either_dropout_acts_in_training_alone(probability: str) -> None:
    probabilities = {"dropout_probability": 0.0, "attention_dropout_probability": 0.0, probability: 0.6}
    network, x = network_of(**probabilities), torch.rand(5, 4)
    assert torch.equal(network(x, EDGES), network(x, EDGES))
    network.train()
    assert not torch.allclose(network(x, EDGES), network(x, EDGES))


def test_every_head_drops_other_inputs() -> None:
    network = network_of(dropout_probability=0.5, attention_dropout_probability=0.0).train()
    first, second = network.heads
    second.load_state_dict(first.state_dict())
    loops = torch.arange(5).expand(2, -1)
    x = torch.rand(5, 4)
    assert not torch.allclose(first(x, loops), second(x, loops))
