from __future__ import annotations

from typing import Any

import pytest

from pipelines.training.budget import TrainingBudget

BUDGET: dict[str, Any] = {
    "kind": "steps",
    "steps": 200,
    "minutes": 2.0,
    "steps_per_epoch": 50,
    "early_stop_epochs": 0,
    "validation_steps": 5,
}


@pytest.mark.parametrize(
    ("kind", "step", "elapsed_s", "progress", "is_spent"),
    [
        ("steps", 50, 1e9, 0.25, False),
        ("steps", 200, 0, 1, True),
        ("minutes", 10_000, 30, 0.25, False),
        ("minutes", 1, 120, 1, True),
        ("minutes", 1, 150, 1, True),
        ("cpu_minutes", 10_000, 30, 0.25, False),
        ("cpu_minutes", 1, 120, 1, True),
    ],
)
def test_progress_is_the_share_of_steps_or_of_time(
    kind: str, step: int, elapsed_s: float, progress: float, is_spent: bool
) -> None:
    budget = TrainingBudget.from_dict(BUDGET | {"kind": kind})
    assert budget.progress(step, elapsed_s) == progress
    assert budget.is_spent(step, elapsed_s) == is_spent


def test_only_a_budget_of_steps_knows_its_last_step() -> None:
    assert [TrainingBudget.from_dict(BUDGET).has_step(step) for step in (199, 200)] == [True, False]
    assert TrainingBudget.from_dict(BUDGET | {"kind": "minutes"}).has_step(200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "hours"}, "'hours' is unknown; choose one of steps, minutes, cpu_minutes"),
        ({"early_stop_rule": "luck"}, "'luck' is unknown; choose one of score, score_and_loss, mean_loss"),
        ({"steps": 0}, "steps is 0 but must be positive"),
        ({"kind": "minutes", "minutes": -1}, "minutes is -1 but must be positive"),
        ({"steps_per_epoch": 0}, "steps_per_epoch is 0"),
    ],
    ids=str,
)
def test_a_wrong_amount_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingBudget.from_dict(BUDGET | change)
