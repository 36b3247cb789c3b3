"""The network a plan describes."""

from __future__ import annotations

from torch import nn

from pipelines.planning.architecture import load_architecture
from pipelines.planning.plan import Plan
from repro_models.contract import Problem


def build_network(plan: Plan) -> nn.Module:
    """The network of a plan, weights freshly drawn from torch's random state."""
    module = load_architecture(plan.architecture, plan.network)
    network: nn.Module = module.build(module.Config(**plan.network), Problem(**plan.problem))
    return network
