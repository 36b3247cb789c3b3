"""What the nodes of a graph gather from their neighbours.

Shapes:
    N nodes, E directed edges, D features. Edges are (2, E) int64: the source of each above its target. An undirected
    link is two edges. Nodes are 0 to N - 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from repro_models.contract import IllegalSizeError


def check_graph(x: Tensor, edges: Tensor, num_features: int) -> None:
    """Raise `IllegalSizeError` unless `x` is (N, num_features) and `edges` (2, E); values are not looked at."""
    if x.ndim != 2 or x.shape[1] != num_features:
        raise IllegalSizeError(
            f"node features of shape {tuple(x.shape)}: must be (nodes, {num_features}); build the network for a "
            f"GraphProblem with num_features={x.shape[-1]}, or give one row of {num_features} features a node"
        )
    if edges.ndim != 2 or edges.shape[0] != 2:
        raise IllegalSizeError(
            f"edges of shape {tuple(edges.shape)}: must be (2, edges), sources above targets; transpose the pairs"
        )


def with_self_loops(edges: Tensor, num_nodes: int) -> Tensor:
    """`edges` (2, E) and one from every node to itself: (2, E + N)."""
    nodes = torch.arange(num_nodes, device=edges.device)
    return torch.cat([edges, torch.stack([nodes, nodes])], dim=1)


def sum_by_target(messages: Tensor, targets: Tensor, num_nodes: int) -> Tensor:
    """Sum the messages that reach each node.

    Args:
        messages: (E, ...), one an edge.
        targets: (E,).
        num_nodes: N.

    Returns:
        (N, ...); 0 where no edge ends.
    """
    return messages.new_zeros(num_nodes, *messages.shape[1:]).index_add(0, targets, messages)


def softmax_by_target(scores: Tensor, targets: Tensor, num_nodes: int) -> Tensor:
    """Softmax over the edges that end at the same node.

    Args:
        scores: (E,).
        targets: (E,).
        num_nodes: N.

    Returns:
        (E,), in 0 .. 1; 1 in sum over the edges of each node that has some.
    """
    # The highest score is taken off so that no exponential overflows; the result does not depend on it.
    highest = scores.new_full((num_nodes,), -torch.inf).scatter_reduce(0, targets, scores.detach(), "amax")
    exponentials = (scores - highest.index_select(0, targets)).exp()
    return exponentials / sum_by_target(exponentials, targets, num_nodes).index_select(0, targets)


def dropout(x: Tensor, probability: float, is_training: bool) -> Tensor:
    """Dropout of features that may be sparse (COO, coalesced): what is zero stays zero and is not drawn for."""
    if not x.is_sparse or not is_training:
        return functional.dropout(x, probability, is_training)
    # What is dropped is left out, so that the product after it has less to do.
    is_kept = torch.rand_like(x.values()) >= probability
    values = x.values()[is_kept] / (1 - probability)
    return torch.sparse_coo_tensor(x.indices()[:, is_kept], values, x.shape, is_coalesced=True, check_invariants=False)
