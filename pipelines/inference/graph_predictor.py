"""What a trained network says of the nodes of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from pipelines.planning.graph_network import build_graph_network
from pipelines.planning.graph_plan import GraphPlan
from pipelines.preprocessing.graph import PreparedGraph


@dataclass(frozen=True)
class GraphTensors:
    """A graph as a network takes it.

    Attributes:
        features: (N, C) float32, sparse (COO, coalesced).
        edges: (2, E) int64.
    """

    features: Tensor
    edges: Tensor


def graph_tensors(graph: PreparedGraph, num_features: int) -> GraphTensors:
    """A prepared graph as tensors on the CPU."""
    indices = torch.stack([torch.from_numpy(graph.feature_rows), torch.from_numpy(graph.feature_columns)])
    # Entries come in order of rows and columns, each once.
    features = torch.sparse_coo_tensor(
        indices,
        torch.from_numpy(graph.feature_values),
        (len(graph.classes), num_features),
        is_coalesced=True,
        check_invariants=False,
    )
    return GraphTensors(features, torch.from_numpy(graph.edges))


def predict_nodes(plan: GraphPlan, graph: PreparedGraph, weights_path: Path) -> Tensor:
    """Probability of every class of every node, (N, classes) float32, by one training's weights."""
    network = build_graph_network(plan.architecture, plan.network, plan.problem).eval()
    network.load_state_dict(load(weights_path.read_bytes()))
    tensors = graph_tensors(graph, plan.problem["num_features"])
    with torch.no_grad():
        probabilities: Tensor = network(tensors.features, tensors.edges).softmax(dim=1)
    return probabilities
