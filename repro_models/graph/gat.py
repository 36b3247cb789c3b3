"""GAT (Velickovic et al., 2018, arXiv 1710.10903).

Section 2.1 and the transductive network of section 3.3: eight heads of eight features, concatenated, ELU; then one head
that gives the classes. Each head has a dropout mask of its own on its input, as in the authors' code.

Differs:
    - Sparse: only neighbours are scored, where the authors' default code masks an N x N matrix. The result is the same.
    - The attention of a pair has two biases, one for either end: they are in the authors' code, not in the paper
      (equation 3); `Config(has_attention_bias=False)` is the paper's formula.
    - More than one output head is averaged before the softmax (equation 6), as the paper does for Pubmed.
Shapes:
    N nodes, E directed edges, F features of a node before, F' after.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.blocks.neighbourhood import (
    check_graph,
    dropout,
    softmax_by_target,
    sum_by_target,
    with_self_loops,
)
from repro_models.contract import NO_GRID, GraphProblem, Paper, Recipe, Variant

PAPER = Paper(
    title="Graph Attention Networks",
    year=2018,
    address="https://arxiv.org/abs/1710.10903",
    reference_code="https://github.com/PetarV-/GAT",
)


@dataclass(frozen=True)
class Config:
    """Size and form; the defaults are the paper's for Cora and Citeseer.

    Attributes:
        num_heads: of the hidden layer, concatenated.
        features_per_head: F' of the hidden layer.
        num_output_heads: averaged.
        dropout_probability: of the input of a head, and of its transformed features.
        attention_dropout_probability: of the attention coefficients.
        negative_slope: of the LeakyReLU.
        has_attention_bias: a bias for either end of an edge.
    """

    num_heads: int = 8
    features_per_head: int = 8
    num_output_heads: int = 1
    dropout_probability: float = 0.6
    attention_dropout_probability: float = 0.6
    negative_slope: float = 0.2
    has_attention_bias: bool = True


_CORA = GraphProblem(num_features=1433, num_classes=7)
VARIANTS = {
    "paper": Variant(Config(), _CORA, 92_391, "computed from the authors' layer code"),
    "without_attention_bias": Variant(
        Config(has_attention_bias=False), _CORA, 92_373, "computed: the paper's formula, as PyTorch Geometric has it"
    ),
    "tiny": Variant(
        Config(num_heads=2, features_per_head=3),
        GraphProblem(5, 3),
        # Two heads of 5 x 3 + 2 x 3 + 2 + 3, one of 6 x 3 + 2 x 3 + 2 + 3.
        81,
        "ours, counted by hand",
    ),
}
CONSTRAINTS = NO_GRID
RECIPE = Recipe(
    optimizer="adam",
    learning_rate=0.005,
    weight_decay=5e-4,
    decayed=("*.weight", "*_attention"),
    steps=100_000,
    early_stop_epochs=100,
    early_stop_rule="score_and_loss",
    keeps_best=True,
)


class AttentionHead(nn.Module):
    """One head of a graph attentional layer (equations 1 to 4 without the activation).

    Args:
        in_features: F.
        out_features: F'.
        config: dropout, slope and biases.
    """

    def __init__(self, in_features: int, out_features: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(in_features, out_features)))
        # The vector a of equation 3, cut in the part for the node itself and the part for its neighbour.
        self.target_attention = nn.Parameter(_attention_vector(out_features))
        self.source_attention = nn.Parameter(_attention_vector(out_features))
        if config.has_attention_bias:
            self.target_bias = nn.Parameter(torch.zeros(()))
            self.source_bias = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Features of the nodes after the layer.

        Args:
            x: (N, F), dense or sparse.
            edges: (2, E + N), self-loops included.

        Returns:
            (N, F').
        """
        sources, targets = edges
        config, num_nodes = self.config, x.shape[0]
        features = dropout(x, config.dropout_probability, self.training) @ self.weight
        scores = self._scores(features, sources, targets)
        attention = softmax_by_target(functional.leaky_relu(scores, config.negative_slope), targets, num_nodes)
        attention = dropout(attention, config.attention_dropout_probability, self.training)
        features = dropout(features, config.dropout_probability, self.training)
        messages = features.index_select(0, sources) * attention[:, None]
        return sum_by_target(messages, targets, num_nodes) + self.bias

    def _scores(self, features: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        of_target, of_source = features @ self.target_attention, features @ self.source_attention
        if self.config.has_attention_bias:
            of_target, of_source = of_target + self.target_bias, of_source + self.source_bias
        return of_target.index_select(0, targets) + of_source.index_select(0, sources)


def _attention_vector(num_features: int) -> Tensor:
    """Glorot uniform for a map of `num_features` to one."""
    return nn.init.xavier_uniform_(torch.empty(num_features, 1)).squeeze(1)


class GAT(nn.Module):
    """A layer of concatenated heads, ELU, and a layer of averaged heads.

    Args:
        config: size and form.
        problem: features and classes.
    """

    def __init__(self, config: Config, problem: GraphProblem) -> None:
        super().__init__()
        self.num_features = problem.num_features
        self.heads = nn.ModuleList(
            AttentionHead(problem.num_features, config.features_per_head, config) for _ in range(config.num_heads)
        )
        self.output_heads = nn.ModuleList(
            AttentionHead(config.num_heads * config.features_per_head, problem.num_classes, config)
            for _ in range(config.num_output_heads)
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Logits of every node.

        Args:
            x: (N, F), dense or sparse (COO, coalesced).
            edges: (2, E) int64, both directions of every link, no self-loops.

        Returns:
            (N, classes).

        Raises:
            IllegalSizeError: `x` has another number of features, or `edges` another shape.
        """
        check_graph(x, edges, self.num_features)
        edges = with_self_loops(edges, x.shape[0])
        hidden = torch.cat([functional.elu(head(x, edges)) for head in self.heads], dim=1)
        return torch.stack([head(hidden, edges) for head in self.output_heads]).mean(dim=0)


def build(config: Config, problem: GraphProblem) -> nn.Module:
    """The network with fresh weights."""
    return GAT(config, problem)
