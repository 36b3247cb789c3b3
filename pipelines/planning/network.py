"""The network a plan describes."""

from __future__ import annotations

from torch import nn

from pipelines.planning.plan import Plan
from repro_models import registry
from repro_models.contract import Problem


def build_network(plan: Plan) -> nn.Module:
    """The network of a plan, weights freshly drawn from torch's random state."""
    module = registry.load(plan.architecture)
    network: nn.Module = module.build(module.Config(**plan.network), Problem(**plan.problem))
    return network
