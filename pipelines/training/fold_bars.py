"""Progress bars for trainings that run in other processes, read from the events they write."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipelines.tasks.lookup import task_of
from pipelines.tracking.events import epochs, read_events

if TYPE_CHECKING:
    from tqdm import tqdm

    from pipelines.training.folds import TrainingRequest

_POLL_SECONDS = 1.0


@contextmanager
def fold_bars(requests: list[TrainingRequest]) -> Iterator[None]:
    """Draw one bar per training while the block runs: progress, loss, score, time left."""
    is_over = threading.Event()
    thread = threading.Thread(target=_draw, args=(requests, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _draw(requests: list[TrainingRequest], is_over: threading.Event) -> None:
    from tqdm import tqdm

    bars = []
    for position, request in enumerate(requests):
        budget = request.plan["budget"]
        total, unit = (budget["steps"], "step") if budget["kind"] == "steps" else (round(budget["minutes"] * 60), "s")
        bars.append(tqdm(total=total, desc=request.name, unit=unit, position=position))
    is_last_look = False
    while not is_last_look:
        is_last_look = is_over.wait(_POLL_SECONDS)
        for bar, request in zip(bars, requests, strict=True):
            told = epochs(read_events(request.events_path))
            if told:
                _advance(bar, told[-1], task_of(request.family).SCORE)
    for bar in bars:
        bar.close()


def _advance(bar: tqdm[Any], epoch: dict[str, Any], score_name: str) -> None:
    done = epoch["step"] if bar.unit == "step" else min(round(epoch["seconds"]), bar.total)
    metrics = epoch["metrics"]
    score = metrics.get(f"val/{score_name}", float("nan"))
    bar.set_postfix({"loss": f"{metrics['train/loss']:.3f}", score_name: f"{score:.3f}"}, refresh=False)
    bar.update(done - bar.n)
