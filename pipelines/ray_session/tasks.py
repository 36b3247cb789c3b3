"""Run a function on several items as tasks of the cluster that this process is connected to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipelines.ray_session.dispatcher import Needs, is_dispatched, submit
from pipelines.ray_session.session import attached

Item = TypeVar("Item")
Result = TypeVar("Result")

# Time for interrupted tasks to end what they do and save.
_SAVE_SECONDS = 60.0


def run_tasks(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    num_cpus: int = 1,
    num_gpus: int = 0,
    memory_bytes: int = 0,
) -> Iterator[tuple[int, Result]]:
    """Run one task per item in the folder of this process, and give results as they come.

    A task whose worker is killed runs once more. When one fails or this process is interrupted, the others are
    cancelled: they get a `KeyboardInterrupt`, and time to save.

    Args:
        function: picklable.
        items: what to apply it to.
        num_cpus: processors a task needs.
        num_gpus: accelerators a task needs.
        memory_bytes: memory a task takes at most, 0 where nobody knows; a machine runs as many as fit what it had free
            when it joined the cluster.

    Yields:
        The number of the item, and the result.

    Raises:
        Exception: what `function` raised for one of the items.
    """
    import ray

    task = partial(_in_folder, str(Path.cwd()), function)
    with attached():
        needs = Needs(num_cpus, num_gpus, _on_one_machine(memory_bytes))
        # The cluster keeps a result as long as its reference: nothing else holds one.
        pending = {reference: index for index, reference in enumerate(submit(task, items, needs))}
        try:
            while pending:
                done, _ = ray.wait(list(pending), num_returns=1)
                yield pending.pop(done[0]), ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            _cancel(list(pending))
            raise error.cause from None
        except BaseException:
            _cancel(list(pending))
            raise


def run_where_warm(function: Callable[[], Result]) -> Result:
    """Call `function` in a worker that outlives this process, if `make repro` keeps such, else here.

    Worth it where most of the time goes into imports, which a kept worker has behind it.
    """
    if not is_dispatched():
        return function()
    ((_, result),) = run_tasks(_call, [function])
    return result


def _on_one_machine(memory_bytes: int) -> int:
    """A need that the largest machine can meet: a task that asks for more would wait for ever."""
    import ray

    machines = [node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]] if memory_bytes else []
    return min(memory_bytes, int(max(machines, default=0)))


def _call(function: Callable[[], Result]) -> Result:
    return function()


def _in_folder(folder: str, function: Callable[[Item], Result], item: Item) -> Result:
    # A worker starts wherever its raylet did; paths are relative to the study's folder.
    os.chdir(folder)
    return function(item)


def _cancel(pending: list[Any]) -> None:
    import ray

    for reference in pending:
        ray.cancel(reference)
    if pending:
        ray.wait(pending, num_returns=len(pending), timeout=_SAVE_SECONDS)
