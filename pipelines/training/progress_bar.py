"""The bar a person looks at while a network trains."""

from __future__ import annotations

from types import TracebackType

from tqdm import tqdm

from pipelines.training.budget import TrainingBudget
from pipelines.training.progress import Progress


class ProgressBar:
    """A context that shows, on standard error, the share of the budget spent, the time left, loss and score."""

    def __init__(
        self, description: str, limit: TrainingBudget, progress: Progress, score_name: str, is_shown: bool
    ) -> None:
        self._limit = limit
        self._score_name = score_name
        self._bar = tqdm(
            desc=description,
            total=limit.amount,
            initial=limit.spent(progress.step, progress.elapsed_s),
            disable=not is_shown,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
        )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def show(self, progress: Progress, loss: float) -> None:
        """Move to where `progress` stands; `loss` is that of the last step."""
        values = {"step": str(progress.step), "loss": f"{loss:.4f}"}
        if progress.history and f"val_{self._score_name}" in progress.history[-1]:
            values[self._score_name] = f"{progress.history[-1][f'val_{self._score_name}']:.4f}"
        self._bar.set_postfix(values, refresh=False)
        self._bar.update(self._limit.spent(progress.step, progress.elapsed_s) - self._bar.n)
