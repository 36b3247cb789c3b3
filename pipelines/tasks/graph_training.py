"""How a network that classes the nodes of a graph is trained: the whole graph every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipelines.inference.graph_predictor import GraphTensors, graph_tensors
from pipelines.planning.graph_network import build_graph_network
from pipelines.planning.graph_plan import GraphPlan
from pipelines.preprocessing.graph import open_graph
from pipelines.tasks.graph import SCORE


class GraphTraining:
    """One training: its network, its loss on the training nodes, its validation on the validation nodes.

    Args:
        plan: the resolved configuration.
        cases: the one entry of the prepared index.
        folder: what its file is relative to.
    """

    score_name = SCORE
    batch_size = 1

    def __init__(self, plan: GraphPlan, cases: Sequence[dict[str, Any]], folder: Path) -> None:
        self.plan = plan
        (case,) = cases
        graph = open_graph(folder / case["file"])
        self._graph = graph_tensors(graph, plan.problem["num_features"])
        self._classes = torch.from_numpy(graph.classes)
        self._nodes = {
            split: torch.from_numpy((graph.splits == split).nonzero()[0]) for split in ("train", "validation")
        }

    def build_network(self) -> nn.Module:
        """The network, weights drawn from torch's random state."""
        return build_graph_network(self.plan.architecture, self.plan.network, self.plan.problem)

    def batch(self, step: int, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """The training nodes and their classes: the same every step.

        Returns:
            `nodes` and `classes`, (1, training nodes) int64, on `device`.
        """
        nodes = self._nodes["train"]
        return {"nodes": nodes[None].to(device), "classes": self._classes[nodes][None].to(device)}

    def loss_terms(
        self, network: nn.Module, batch: dict[str, Tensor], sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy of the training nodes, and nothing that covers several ranks."""
        logits = self._logits(network, batch["nodes"].device)
        return cross_entropy(logits[batch["nodes"][0]], batch["classes"][0]), logits.new_zeros(())

    def validate(self, network: nn.Module, epoch: int, device: torch.device) -> dict[str, float]:
        """Cross entropy and accuracy of the validation nodes.

        Returns:
            `loss`, `accuracy`.
        """
        nodes = self._nodes["validation"].to(device)
        logits, classes = self._logits(network, device)[nodes], self._classes.to(device)[nodes]
        is_right = logits.argmax(dim=1) == classes
        return {"loss": cross_entropy(logits, classes).item(), SCORE: is_right.double().mean().item()}

    def _logits(self, network: nn.Module, device: torch.device) -> Tensor:
        if self._graph.edges.device != device:
            self._graph = GraphTensors(self._graph.features.to(device), self._graph.edges.to(device))
        # A graph is small: full precision costs nothing, and sparse products have no other.
        with torch.autocast(device.type, enabled=False):
            logits: Tensor = network(self._graph.features, self._graph.edges)
        return logits
