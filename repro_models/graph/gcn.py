"""GCN (Kipf and Welling, 2017, arXiv 1609.02907).

Equations 2 and 9: Z = softmax(S ReLU(S X W0) W1) with S = D~^-1/2 (A + I) D~^-1/2; training as in section 5.2 and
5.3 (Glorot initialisation, dropout on the input of every layer, L2 on W0).

Differs:
    - The softmax belongs to the loss, as everywhere here: the network gives logits.
    - The early stop of `RECIPE` looks at the cross entropy of the validation nodes; the authors' code adds the L2 term.
    - `Config(has_bias=True)` adds what later implementations have and the authors' has not.
Shapes:
    N nodes, E directed edges, C features of a node, H hidden features, F classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from repro_models.blocks.neighbourhood import check_graph, dropout, sum_by_target, with_self_loops
from repro_models.contract import NO_GRID, GraphProblem, Paper, Recipe, Variant

PAPER = Paper(
    title="Semi-Supervised Classification with Graph Convolutional Networks",
    year=2017,
    address="https://arxiv.org/abs/1609.02907",
    reference_code="https://github.com/tkipf/gcn",
)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's for Cora and Citeseer.

    Attributes:
        hidden_features: H.
        num_layers: graph convolutions; all but the last give H features.
        dropout_probability: of the input of every layer.
        has_bias: add a bias to every layer.
    """

    hidden_features: int = 16
    num_layers: int = 2
    dropout_probability: float = 0.5
    has_bias: bool = False


_CORA = GraphProblem(num_features=1433, num_classes=7)
VARIANTS = {
    "paper": Variant(Config(), _CORA, 23_040, "computed from the authors' layer code, which has no bias"),
    "with_bias": Variant(Config(has_bias=True), _CORA, 23_063, "computed: the paper's and 16 + 7 biases"),
    "tiny": Variant(Config(hidden_features=4), GraphProblem(5, 3), 32, "ours: 5 x 4 and 4 x 3 weights"),
}
CONSTRAINTS = NO_GRID
RECIPE = Recipe(
    optimizer="adam",
    learning_rate=0.01,
    weight_decay=5e-4,
    decayed=("layers.0.weight",),
    steps=200,
    early_stop_epochs=10,
    early_stop_rule="mean_loss",
    keeps_best=False,
)


class GraphConvolution(nn.Module):
    """S X W (equation 2 without its activation).

    Args:
        in_features: of a node before.
        out_features: of a node after.
        has_bias: add a bias.
    """

    def __init__(self, in_features: int, out_features: int, has_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(in_features, out_features)))
        self.bias = nn.Parameter(torch.zeros(out_features)) if has_bias else None

    def forward(self, x: Tensor, edges: Tensor, edge_weights: Tensor) -> Tensor:
        """Features of the nodes after the convolution.

        Args:
            x: (N, in_features), dense or sparse.
            edges: (2, E + N), self-loops included.
            edge_weights: (E + N,), the entries of S.

        Returns:
            (N, out_features).
        """
        sources, targets = edges
        messages = (x @ self.weight).index_select(0, sources) * edge_weights[:, None]
        gathered = sum_by_target(messages, targets, x.shape[0])
        return gathered if self.bias is None else gathered + self.bias


class GCN(nn.Module):
    """Graph convolutions with dropout before and ReLU between them.

    Args:
        config: size and form.
        problem: features and classes.
    """

    def __init__(self, config: Config, problem: GraphProblem) -> None:
        super().__init__()
        widths = [problem.num_features, *[config.hidden_features] * (config.num_layers - 1), problem.num_classes]
        self.config = config
        self.num_features = problem.num_features
        self.layers = nn.ModuleList(
            GraphConvolution(before, after, config.has_bias) for before, after in pairwise(widths)
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Logits of every node.

        Args:
            x: (N, C), dense or sparse (COO, coalesced).
            edges: (2, E) int64, both directions of every link, no self-loops.

        Returns:
            (N, F).

        Raises:
            IllegalSizeError: `x` has another number of features, or `edges` another shape.
        """
        check_graph(x, edges, self.num_features)
        edges = with_self_loops(edges, x.shape[0])
        edge_weights = normalised_adjacency(edges, x.shape[0]).to(x.dtype)
        for number, layer in enumerate(self.layers):
            x = x if number == 0 else x.relu()
            x = layer(dropout(x, self.config.dropout_probability, self.training), edges, edge_weights)
        return x


def normalised_adjacency(edges: Tensor, num_nodes: int) -> Tensor:
    """Entries of D^-1/2 A D^-1/2 at the edges of A: (E,) in double precision for (2, E)."""
    sources, targets = edges
    ones = torch.ones(edges.shape[1], dtype=torch.float64, device=edges.device)
    degrees = sum_by_target(ones, targets, num_nodes)
    return (degrees[sources] * degrees[targets]).rsqrt()


def build(config: Config, problem: GraphProblem) -> nn.Module:
    """The network with fresh weights."""
    return GCN(config, problem)
