"""How long a training lasts: in steps, in minutes, or in minutes of processor time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pipelines.training.early_stop import RULES

KINDS = ("steps", "minutes", "cpu_minutes")


@dataclass(frozen=True)
class TrainingBudget:
    """The end of a training.

    Args:
        kind: `steps`, `minutes` or `cpu_minutes`; the amount of the others is not looked at.
        steps: optimiser steps in all.
        minutes: time in all, validation included, over all parts of an interrupted training; of `cpu_minutes` what the
            processors spent on the process of rank 0, all its threads together.
        steps_per_epoch: an epoch ends with a validation and a saved state.
        early_stop_epochs: how many epochs the rule looks back; 0 never stops early.
        early_stop_rule: see `pipelines.training.early_stop`.

    Raises:
        ValueError: the kind or the rule is unknown, or an amount is not positive.
    """

    kind: str
    steps: int
    minutes: float
    steps_per_epoch: int
    early_stop_epochs: int
    early_stop_rule: str = "score"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"budget kind {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if self.early_stop_rule not in RULES:
            raise ValueError(f"early_stop_rule {self.early_stop_rule!r} is unknown; choose one of {', '.join(RULES)}")
        for name in ("steps" if self.kind == "steps" else "minutes", "steps_per_epoch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"budget {name} is {getattr(self, name)} but must be positive; correct the budget")

    @classmethod
    def from_dict(cls, budget: dict[str, Any]) -> TrainingBudget:
        """Read a plan's budget, which also holds amounts that only a task uses."""
        return cls(
            kind=budget["kind"],
            steps=budget["steps"],
            minutes=budget["minutes"],
            steps_per_epoch=budget["steps_per_epoch"],
            early_stop_epochs=budget["early_stop_epochs"],
            early_stop_rule=budget.get("early_stop_rule", "score"),
        )

    def clock_s(self) -> float:
        """Seconds on the clock that the budget is told in, from any start; steps have the clock on the wall."""
        return time.process_time() if self.kind == "cpu_minutes" else time.monotonic()

    @property
    def amount(self) -> float:
        """Steps or seconds in all."""
        return self.steps if self.kind == "steps" else self.minutes * 60

    def spent(self, step: int, elapsed_s: float) -> float:
        """Steps or seconds used after `step` steps and `elapsed_s` seconds, at most `amount`."""
        return min(step if self.kind == "steps" else elapsed_s, self.amount)

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share of the training that is done, 0 to 1."""
        return self.spent(step, elapsed_s) / self.amount

    def is_spent(self, step: int, elapsed_s: float) -> bool:
        """Whether the training ends here."""
        return self.spent(step, elapsed_s) >= self.amount

    def has_step(self, step: int) -> bool:
        """Whether `step`, counted from 0, can belong to the training, whatever the time."""
        return self.kind != "steps" or step < self.steps
