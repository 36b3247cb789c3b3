"""Apply a function to cases: in this process, in a pool of processes, or as tasks of a Ray cluster."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import forkserver, get_context
from typing import Any, TypeVar

from pipelines.ray_session.memory import free_bytes, num_that_fit
from pipelines.ray_session.session import is_on_cluster, num_local_cpus
from pipelines.ray_session.tasks import run_tasks

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that a process is given ahead, so that it never waits for the next one.
_ITEMS_AHEAD = 2


def map_cases(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    desc: str,
    unit: str = "case",
    num_gpus: int = 0,
    imports: Sequence[str] = (),
    memory_bytes: Sequence[int] = (),
) -> list[Result]:
    """Apply `function` to every item, with a progress bar.

    Args:
        function: picklable (a function of a module, or a `functools.partial` of one).
        items: what to apply it to.
        desc: what the progress bar says.
        unit: what one item is called.
        num_gpus: accelerators `function` uses; with one, this machine takes one item after the other.
        imports: modules that `function` imports itself; a pool of processes imports them, and that of `function`, once
            for all.
        memory_bytes: what each item takes at most, or nothing. Only as many processes start as fit what is free, and a
            line says so where that is fewer than there are processors; tasks of a cluster ask for the largest.

    Returns:
        The results in the order of `items`.

    Raises:
        Exception: whatever `function` raises for one of the items; the rest is cancelled.
    """
    results: list[Any] = [None] * len(items)
    for index, result in each_case(function, items, desc, unit, num_gpus, imports, memory_bytes):
        results[index] = result
    return results


def each_case(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    desc: str,
    unit: str = "case",
    num_gpus: int = 0,
    imports: Sequence[str] = (),
    memory_bytes: Sequence[int] = (),
) -> Iterator[tuple[int, Result]]:
    """Apply `function` to every item as `map_cases` does, and give each result when it comes.

    No result is kept, and no process of this machine is further ahead of the caller than two items: so memory does not
    grow with the number of items.

    Yields:
        The number of the item, and the result.
    """
    from tqdm import tqdm

    num_processes = 1 if num_gpus else min(len(items), num_local_cpus())
    if is_on_cluster() and len(items) > 1:
        finished = run_tasks(function, items, num_gpus=num_gpus, memory_bytes=max(memory_bytes, default=0))
    elif num_processes > 1:
        # Even one process is better than none where memory is short: when it is killed, this one can say so.
        finished = _in_pool(function, items, _num_fitting(num_processes, memory_bytes, desc), imports)
    else:
        finished = ((index, function(item)) for index, item in enumerate(items))
    yield from tqdm(finished, total=len(items), desc=desc, unit=unit)


def _num_fitting(num_processes: int, memory_bytes: Sequence[int], desc: str) -> int:
    free = free_bytes()
    num_fitting = min(num_that_fit(memory_bytes, free), num_processes) if memory_bytes else num_processes
    if num_fitting < num_processes:
        print(
            f"{desc}: {num_fitting} of {num_processes} processes, because one takes up to "
            f"{max(memory_bytes) / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free",
            file=sys.stderr,
        )
    return num_fitting


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


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _fork_server(modules: Sequence[str]) -> Iterator[Any]:
    """Start processes from one that has imported `modules` and computes with one thread; gives the context for them.

    A new interpreter for each would import everything again, and this process may have threads that no fork survives.
    """
    server: Any = forkserver._forkserver
    is_ours = server._forkserver_pid is None
    context = get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    with _environment("OMP_NUM_THREADS", "1"):
        try:
            yield context
        finally:
            # By itself it would live as long as this process, with the modules of this pool. But while processes of a
            # pool around this one live, it cannot end.
            if is_ours:
                server._stop()


def _in_pool(
    function: Callable[[Item], Result], items: Sequence[Item], num_processes: int, imports: Sequence[str]
) -> Iterator[tuple[int, Result]]:
    own_module = (function.func if isinstance(function, partial) else function).__module__
    with _fork_server([own_module, *imports]) as context:
        pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=_ignore_interrupt)
        waiting = enumerate(items)
        running: dict[Future[Result], int] = {}

        def submit(most: int) -> None:
            with _interrupt_held_back():
                running.update({pool.submit(function, item): index for index, item in islice(waiting, most)})

        try:
            submit(_ITEMS_AHEAD * num_processes)
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    index = running.pop(future)
                    submit(1)
                    yield index, future.result()
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
