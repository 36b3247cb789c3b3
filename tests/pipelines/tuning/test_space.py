from __future__ import annotations

import copy
from typing import Any

import pytest

from pipelines.tuning.space import check_space, default_space, planned_settings, resolved_settings, tuned_values
from repro_models.contract import Choice, Range

PLAN: dict[str, Any] = {
    "optimizer": {"name": "sgd", "learning_rate": 0.02, "momentum": 0.99, "weight_decay": 1e-4, "decayed": ["*"]},
    "schedule": {"name": "polynomial", "exponent": 0.9, "warmup_fraction": 0.0},
    "network": {"norm": "batch", "dropout": 0.1},
    "overrides": {},
}
DECLARED = {"norm": Choice(("batch", "instance")), "dropout": Range(0.0, 0.5)}
SPACE = default_space(PLAN, ("sgd", "adamw"), DECLARED)


def test_unasked_the_optimiser_its_rates_and_what_the_architecture_declares_are_varied() -> None:
    assert {
        "optimizer": Choice(("sgd", "adamw")),
        "learning_rate_factor": Range(0.1, 10.0, is_log=True),
        "weight_decay_factor": Range(0.1, 10.0, is_log=True),
        "network.norm": Choice(("batch", "instance")),
        "network.dropout": Range(0.0, 0.5),
    } == SPACE


def test_what_the_user_has_set_for_the_entry_is_not_varied() -> None:
    plan = PLAN | {"overrides": {"network": {"norm": "instance"}, "learning_rate": 0.1}}
    assert default_space(plan, ("sgd",), DECLARED).keys() == {
        "learning_rate_factor",
        "weight_decay_factor",
        "network.dropout",
    }


def test_the_planned_settings_give_the_plan() -> None:
    settings = planned_settings(PLAN, SPACE)
    assert settings is not None
    values = tuned_values(PLAN, settings)
    assert values == {key: PLAN[key] for key in ("optimizer", "schedule", "network")}
    assert resolved_settings(PLAN, settings) == {
        "optimizer": "sgd",
        "learning_rate": 0.02,
        "weight_decay": 1e-4,
        "network.norm": "batch",
        "network.dropout": 0.1,
    }


@pytest.mark.parametrize(
    "space",
    [
        {"learning_rate": Range(0.1, 0.2)},
        {"optimizer": Choice(("adam", "adamw"))},
        {"network.norm": Choice(("a", "b"))},
    ],
)
def test_a_plan_outside_the_space_has_no_settings(space: dict[str, Any]) -> None:
    assert planned_settings(PLAN, space) is None


def test_a_factor_is_on_the_planned_rate_or_on_what_is_usual_for_another_optimiser() -> None:
    same = tuned_values(PLAN, {"optimizer": "sgd", "learning_rate_factor": 0.5, "weight_decay_factor": 2.0})
    assert (same["optimizer"]["learning_rate"], same["optimizer"]["weight_decay"]) == (0.01, 2e-4)
    other = tuned_values(PLAN, {"optimizer": "adamw", "learning_rate_factor": 0.5, "weight_decay_factor": 2.0})
    assert (other["optimizer"]["learning_rate"], other["optimizer"]["weight_decay"]) == (5e-4, 0.02)


def test_values_that_are_given_are_taken_as_they_are_and_the_plan_stays() -> None:
    before = copy.deepcopy(PLAN)
    settings = {
        "learning_rate": 0.3,
        "momentum": 0.5,
        "schedule": "cosine",
        "warmup_fraction": 0.1,
        "network.dropout": 0.4,
    }
    values = tuned_values(PLAN, settings)
    assert values["optimizer"] == PLAN["optimizer"] | {"learning_rate": 0.3, "momentum": 0.5}
    assert values["schedule"] == {"name": "cosine", "exponent": 0.9, "warmup_fraction": 0.1}
    assert values["network"] == {"dropout": 0.4}
    assert resolved_settings(PLAN, settings) == settings
    assert before == PLAN


@pytest.mark.parametrize(
    ("space", "text"),
    [
        ({"lerning_rate": Range(0, 1)}, "'lerning_rate'; did you mean learning_rate or "),
        ({"network.norms": Choice(("a", "b"))}, "'network.norms'; did you mean network.norm or "),
        ({"weight_decay": Range(0, 1), "weight_decay_factor": Range(0, 1)}, "weight_decay and weight_decay_factor"),
    ],
)
def test_what_cannot_be_varied_is_told(space: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as error:
        check_space(space, ["norm", "dropout"])
    assert str(error.value).startswith("tuning.space has ")
    assert text in str(error.value)
