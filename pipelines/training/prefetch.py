"""Batches made one step ahead, while the network computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from torch import Tensor

Batch = dict[str, Tensor]


class BatchPrefetch:
    """A context in which one thread loads the batch after the one asked for.

    Batches are pure functions of their step, so what is loaded does not depend on when. An error of `load` is raised
    where its step is asked for; leaving the context waits for the thread.

    Args:
        load: gives the batch of a step.
        has_step: whether a step exists; others are not loaded ahead.
    """

    def __init__(self, load: Callable[[int], Batch], has_step: Callable[[int], bool]) -> None:
        self._load = load
        self._has_step = has_step
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def __enter__(self) -> BatchPrefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """Give the batch of `step` and begin to load the next one."""
        if self._ahead is not None and self._ahead[0] == step:
            future = self._ahead[1]
        else:
            future = self._executor.submit(self._load, step)
        self._ahead = None
        batch = future.result()
        if self._has_step(step + 1):
            self._ahead = (step + 1, self._executor.submit(self._load, step + 1))
        return batch
