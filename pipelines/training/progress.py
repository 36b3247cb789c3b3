"""The counters of a training and the history of its epochs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from pipelines.training.early_stop import BestSoFar


@dataclass
class Progress:
    """Where a training stands; plain values, so that they can be saved.

    Attributes:
        step: steps done.
        elapsed_s: time taken.
        epoch_num_steps: steps done in the epoch under way, as are all `epoch_…` fields.
        epoch_loss_sum: sum of their losses.
        epoch_duration_s: time they took.
        epoch_start: share of the training, 0 to 1, that was done when the epoch began.
        best: what the epochs have reached.
        history: a row per epoch.
        is_finished: whether nothing is left to do.
        has_stopped_early: whether it finished before the budget was spent.
        is_judged: whether it was looked at for a collapse.
        rescues: what was done about one (see `pipelines.training.collapse`).
    """

    step: int = 0
    elapsed_s: float = 0.0
    epoch_num_steps: int = 0
    epoch_loss_sum: float = 0.0
    epoch_duration_s: float = 0.0
    epoch_start: float = 0.0
    best: BestSoFar = field(default_factory=BestSoFar)
    history: list[dict[str, float]] = field(default_factory=list)
    is_finished: bool = False
    has_stopped_early: bool = False
    is_judged: bool = False
    rescues: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Progress:
        """Inverse of `values`."""
        return cls(**values | {"best": BestSoFar(**values["best"]), "history": json.loads(values["history"])})

    def values(self) -> dict[str, Any]:
        """All attributes as plain values, the history as one text: torch is slow to save many small things."""
        return {**vars(self), "best": dict(vars(self.best)), "history": json.dumps(self.history)}

    def add_step(self, loss: float, duration_s: float, elapsed_s: float) -> None:
        """Count a step, which took `duration_s` and ended `elapsed_s` after the start of the training."""
        self.step += 1
        self.elapsed_s = elapsed_s
        self.epoch_num_steps += 1
        self.epoch_loss_sum += loss
        self.epoch_duration_s += duration_s

    def end_epoch(
        self, learning_rate: float, scores: dict[str, float], score_name: str, early_stop_rule: str
    ) -> dict[str, float]:
        """Add a row of history and begin the next epoch.

        The score of the epoch is the one called `score_name`, else minus the validation's `loss`, else minus the
        training loss.

        Args:
            learning_rate: of the last step.
            scores: what the validation gave.
            score_name: key of the score that decides which epoch is better.
            early_stop_rule: see `pipelines.training.early_stop`.

        Returns:
            `train/loss`, `train/learning_rate`, `train/seconds_per_step`, and `scores` under `val/…`.
        """
        train_loss = self.epoch_loss_sum / self.epoch_num_steps
        seconds_per_step = self.epoch_duration_s / self.epoch_num_steps
        row = {
            "epoch": len(self.history),
            "step": self.step,
            "train_loss": train_loss,
            "learning_rate": learning_rate,
            "seconds": self.elapsed_s,
        }
        self.history.append(row | {f"val_{name}": value for name, value in scores.items()})
        loss = scores.get("loss", train_loss)
        self.best.end_epoch(early_stop_rule, len(self.history) - 1, scores.get(score_name, -loss), loss)
        self.epoch_num_steps = 0
        self.epoch_loss_sum = 0.0
        self.epoch_duration_s = 0.0
        return {
            "train/loss": train_loss,
            "train/learning_rate": learning_rate,
            "train/seconds_per_step": seconds_per_step,
            **{f"val/{name}": value for name, value in scores.items()},
        }
