"""The network a graph's plan describes, and what a training step of it takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from repro_models import registry
from repro_models.contract import GraphProblem

_BYTES_PER_GIB = 2**30
# Weight, gradient and the two moments of Adam.
_TENSORS_PER_PARAMETER = 4


def build_graph_network(architecture: str, network: dict[str, Any], problem: dict[str, int]) -> nn.Module:
    """The network, weights freshly drawn from torch's random state.

    Args:
        architecture: `family/name`.
        network: fields of its `Config`.
        problem: fields of `GraphProblem`.
    """
    module = registry.load(architecture)
    built: nn.Module = module.build(module.Config(**network), GraphProblem(**problem))
    return built


def step_gib(network: nn.Module, x: Tensor, edges: Tensor) -> float:
    """Memory of a training step, by taking one: what is kept for the gradient, the weights, and the graph itself.

    Left out is what lives only within an operation.

    Args:
        network: in training mode.
        x: (N, C) features.
        edges: (2, E).
    """
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        for part in (tensor.indices(), tensor.values()) if tensor.is_sparse else (tensor,):
            storage = part.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def give(tensor: Tensor) -> Tensor:
        return tensor

    for tensor in (x, edges):
        note(tensor)
    with torch.autograd.graph.saved_tensors_hooks(note, give):
        logits = network(x, edges)
    assert logits.requires_grad
    parameters = list(network.parameters())
    for parameter in parameters:
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return (sum(sizes.values()) + _TENSORS_PER_PARAMETER * weights) / _BYTES_PER_GIB
