"""GCN on a graph of five nodes, with the matrices of the paper written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from repro_models.contract import GraphProblem
from repro_models.graph.gcn import Config, build, normalised_adjacency

# A path 0 - 1 - 2, a link 2 - 3, and node 4 alone.
EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
ADJACENCY = torch.zeros(5, 5).index_put((EDGES[0], EDGES[1]), torch.ones(6))


def propagation() -> torch.Tensor:
    """S of the paper, dense."""
    with_loops = ADJACENCY + torch.eye(5)
    scale = with_loops.sum(dim=1).pow(-0.5).diag()
    return scale @ with_loops @ scale


def test_a_weight_is_one_over_the_root_of_the_degrees() -> None:
    assert normalised_adjacency(EDGES, 5).tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0.5, 0.5, 0.5**0.5, 0.5**0.5])


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_logits_are_those_of_the_formula(num_layers: int) -> None:
    torch.manual_seed(0)
    network: Any = build(Config(hidden_features=3, num_layers=num_layers), GraphProblem(4, 2)).eval()
    x = expected = torch.rand(5, 4)
    for number, layer in enumerate(network.layers):
        expected = propagation() @ (expected if number == 0 else expected.relu()) @ layer.weight
    torch.testing.assert_close(network(x, EDGES), expected)


def test_a_node_alone_keeps_its_own_features() -> None:
    network: Any = build(Config(num_layers=1), GraphProblem(4, 2)).eval()
    x = torch.rand(5, 4)
    torch.testing.assert_close(network(x, EDGES)[4], x[4] @ network.layers[0].weight)


def test_dropout_is_before_both_layers_and_only_in_training() -> None:
    network: Any = build(Config(hidden_features=8, dropout_probability=0.9), GraphProblem(4, 2))
    x = torch.rand(5, 4)
    torch.manual_seed(0)
    assert not torch.allclose(network.train()(x, EDGES), network(x, EDGES))
    torch.testing.assert_close(network.eval()(x, EDGES), network(x, EDGES))


def test_the_first_weights_are_glorot_uniform() -> None:
    torch.manual_seed(0)
    weight = build(Config(), GraphProblem(1433, 7)).layers[0].weight
    limit = (6 / (1433 + 16)) ** 0.5
    assert weight.abs().max().item() <= limit
    assert weight.std().item() == pytest.approx(limit / 3**0.5, rel=0.02)
