from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.training.optimizer import build_optimizer, set_learning_rate


def _weight_after(gradients: list[float], **settings: object) -> float:
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = build_optimizer([("weight", weight)], **settings)
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return weight.item()


def test_sgd_looks_ahead_as_nesterov() -> None:
    # Velocity 2, then 0.5 * 2 + 2 = 3; a step is gradient + 0.5 * velocity: 3, then 3.5; times the rate 0.1.
    weight = _weight_after([2, 2], name="sgd", learning_rate=0.1, momentum=0.5, weight_decay=0)
    assert weight == pytest.approx(1 - 0.3 - 0.35)


def test_sgd_without_momentum_is_plain_descent_with_decay_in_the_gradient() -> None:
    assert _weight_after([2], name="sgd", learning_rate=0.1, momentum=0, weight_decay=0.5) == pytest.approx(0.75)


def test_adamw_decays_apart_from_the_gradient() -> None:
    # Decay takes 0.1 * 0.5 of the weight; the first step of Adam is the rate, whatever the gradient.
    weight = _weight_after([2], name="adamw", learning_rate=0.1, weight_decay=0.5, momentum=0.9)
    assert weight == pytest.approx(1 - 0.05 - 0.1)


def test_adam_decays_in_the_gradient() -> None:
    # Gradient 2 and 0.5 * 1 of decay have one sign; the first step of Adam is the rate, whatever their sum.
    settings = {"learning_rate": 0.1, "weight_decay": 0.5}
    assert _weight_after([2], name="adam", **settings) == pytest.approx(1 - 0.1)
    assert _weight_after([-0.4], name="adam", **settings) == pytest.approx(1 - 0.1)
    assert _weight_after([-0.6], name="adam", **settings) == pytest.approx(1 + 0.1)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_only_what_the_patterns_name_decays(name: str) -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    settings = {"name": name, "learning_rate": 0.1, "weight_decay": 0.5}
    optimizer = build_optimizer(network.named_parameters(), **settings, decayed=["0.*", "*.bias"])
    assert [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [(0.5, 3), (0.0, 1)]
    assert optimizer.param_groups[1]["params"][0] is network[1].weight
    assert len(build_optimizer(network.named_parameters(), **settings).param_groups) == 1


def test_a_pattern_that_names_nothing_is_refused() -> None:
    network = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"decayed has 'weights', which fits no parameter .* are weight, bias"):
        build_optimizer(network.named_parameters(), name="sgd", learning_rate=0.1, weight_decay=0, decayed=["weights"])


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'lion' is unknown; choose one of sgd, adam, adamw"):
        build_optimizer([], name="lion", learning_rate=0.1, weight_decay=0)


def test_the_learning_rate_reaches_every_group() -> None:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)], lr=1)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
