from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipelines.planning.graph_network import build_graph_network, step_gib

BYTES = 2**30


class OneProduct(nn.Module):
    """Keeps its input and nothing else for the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(100, 10))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_step_takes_the_graph_four_times_the_weights_and_what_the_gradient_needs(is_sparse: bool) -> None:
    x, edges = torch.eye(100), torch.zeros(2, 50, dtype=torch.int64)
    # 100 x 100 values of 4 bytes, or 100 values with two numbers of 8; 2 x 50 numbers; 4 x 1000 weights.
    of_x = 100 * (4 + 2 * 8) if is_sparse else 100 * 100 * 4
    expected = of_x + 2 * 50 * 8 + 4 * 1000 * 4
    taken = step_gib(OneProduct(), x.to_sparse() if is_sparse else x, edges)
    assert taken * BYTES == pytest.approx(expected)


def test_a_wider_network_takes_more() -> None:
    x, edges = torch.eye(50), torch.randint(0, 50, (2, 400))
    problem = {"num_features": 50, "num_classes": 3}

    def taken(width: int) -> float:
        network = {"hidden_features": width, "num_layers": 2, "dropout_probability": 0.5, "has_bias": False}
        return step_gib(build_graph_network("graph/gcn", network, problem).train(), x, edges)

    assert taken(64) > 2 * taken(8)
