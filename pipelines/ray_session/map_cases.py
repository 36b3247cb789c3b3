"""Map a function over cases: in this process, in a pool of processes, or as tasks of a Ray cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from pipelines.ray_session.session import is_on_cluster, num_local_cpus
from pipelines.ray_session.tasks import run_tasks

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    desc: str,
    unit: str = "case",
    num_gpus: int = 0,
) -> list[Result]:
    """Apply `function` to every item, with a progress bar.

    Args:
        function: picklable (a function of a module, or a `functools.partial` of one).
        items: what to apply it to.
        desc: what the progress bar says.
        unit: what one item is called.
        num_gpus: accelerators `function` uses; with one, this machine takes one item after the other.

    Returns:
        The results in the order of `items`.

    Raises:
        Exception: whatever `function` raises for one of the items; the rest is cancelled.
    """
    from tqdm import tqdm

    if is_on_cluster() and len(items) > 1:
        finished = run_tasks(function, items, num_gpus=num_gpus)
    elif min(len(items), num_local_cpus()) > 1 and not num_gpus:
        finished = _in_pool(function, items)
    else:
        finished = ((index, function(item)) for index, item in enumerate(items))
    results: list[Any] = [None] * len(items)
    for index, result in tqdm(finished, total=len(items), desc=desc, unit=unit):
        results[index] = result
    return results


def _ignore_interrupt() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides, and the bar is not torn by tracebacks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    # A pool that is interrupted while it starts its processes cannot be shut down any more.
    requests: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: requests.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if requests:
        raise KeyboardInterrupt


def _in_pool(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result]]:
    num_workers = min(len(items), num_local_cpus())
    threads_before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_ignore_interrupt)
    try:
        with _interrupt_held_back():
            futures = {pool.submit(function, item): index for index, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if threads_before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads_before
