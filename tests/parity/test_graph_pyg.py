"""Our graph networks against PyTorch Geometric's layers with the same weights, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.contract import GraphProblem
from repro_models.graph import gat, gcn

# PyTorch Geometric itself warns when it is imported.
pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NUM_NODES = 40
PROBLEM = GraphProblem(num_features=11, num_classes=4)
# Both sum in double precision, in another order.
TOLERANCE: dict[str, Any] = {"rtol": 0, "atol": 1e-12}


def graph() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    links = torch.randint(0, NUM_NODES - 1, (2, 90), generator=generator)  # the last node stays alone
    links = links[:, links[0] < links[1]].unique(dim=1)
    return torch.rand(NUM_NODES, 11, generator=generator).double(), torch.cat([links, links.flip(0)], dim=1)


def filled(network: nn.Module) -> nn.Module:
    """All parameters at random: biases start at 0, which would hide where they go."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network.double().eval()


@pytest.mark.parametrize("has_bias", [False, True])
def test_gcn_gives_what_their_layers_give(has_bias: bool) -> None:
    from torch_geometric.nn import GCNConv

    network: Any = filled(gcn.build(gcn.Config(has_bias=has_bias), PROBLEM))
    x, edges = graph()
    layers = [GCNConv(11, 16, bias=has_bias), GCNConv(16, 4, bias=has_bias)]
    for theirs, ours in zip(layers, network.layers, strict=True):
        theirs.double().lin.weight.data = ours.weight.data.T
        if has_bias:
            theirs.bias.data = ours.bias.data
    expected = layers[1](layers[0](x, edges).relu(), edges)
    torch.testing.assert_close(network(x, edges), expected, **TOLERANCE)


def copy_heads(theirs: Any, ours: Any) -> None:
    theirs.lin.weight.data = torch.cat([head.weight.data.T for head in ours])
    theirs.att_src.data = torch.stack([head.source_attention.data for head in ours])[None]
    theirs.att_dst.data = torch.stack([head.target_attention.data for head in ours])[None]


@pytest.mark.parametrize("num_output_heads", [1, 3])
def test_gat_gives_what_their_layers_give(num_output_heads: int) -> None:
    from torch_geometric.nn import GATConv

    config = gat.Config(has_attention_bias=False, num_output_heads=num_output_heads)
    network: Any = filled(gat.build(config, PROBLEM))
    x, edges = graph()
    hidden = GATConv(11, 8, heads=8).double()
    output = GATConv(64, 4, heads=num_output_heads, concat=False).double()
    copy_heads(hidden, network.heads)
    copy_heads(output, network.output_heads)
    hidden.bias.data = torch.cat([head.bias.data for head in network.heads])
    output.bias.data = torch.stack([head.bias.data for head in network.output_heads]).mean(dim=0)
    expected = output(functional.elu(hidden(x, edges)), edges)
    torch.testing.assert_close(network(x, edges), expected, **TOLERANCE)


def test_the_gradients_of_gat_are_theirs() -> None:
    from torch_geometric.nn import GATConv

    network: Any = filled(gat.build(gat.Config(has_attention_bias=False, num_heads=1, num_output_heads=1), PROBLEM))
    x, edges = graph()
    theirs = GATConv(11, 8).double()
    copy_heads(theirs, network.heads)
    theirs.bias.data = network.heads[0].bias.data.clone()
    ours = network.heads[0]
    loops = torch.arange(NUM_NODES).expand(2, -1)
    ours(x, torch.cat([edges, loops], dim=1)).square().sum().backward()
    theirs(x, edges).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.lin.weight.grad.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.source_attention.grad, theirs.att_src.grad[0, 0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.target_attention.grad, theirs.att_dst.grad[0, 0], rtol=1e-10, atol=1e-10)
