"""Workers that outlive a stage.

Ray ends a worker with the job it belongs to, and each stage is a job of its own: each would import torch in new
workers, which takes longer than many a stage. So `make repro` starts an actor to which the stages hand their tasks.
They belong to the actor's job then, and its workers stay for the next stage.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).resolve().parents[2]
# In the environment of the stages: the folder whose code the kept workers have imported.
_FOLDER_KEY = "REPRO_DISPATCHER"
_NAME = "dispatcher"
_NAMESPACE = "repro-models"
_POLL_SECONDS = 1.0


def is_dispatched() -> bool:
    """Whether the stages of this study hand their tasks to a dispatcher.

    Those of an experiment that runs in a copy of the checkout do not: the kept workers have not imported its code.
    """
    return os.environ.get(_FOLDER_KEY) == str(_ROOT)


class Needs(NamedTuple):
    """What a task needs of the machine it runs on; `memory_bytes` of 0 is not known."""

    num_cpus: int
    num_gpus: int
    memory_bytes: int


@contextmanager
def dispatcher() -> Iterator[dict[str, str]]:
    """Keep workers for the stages within the block, in the cluster of this machine that this process started.

    Yields:
        What the environment of the stages must say.
    """
    import ray

    # Ray's stubs take what `remote` gives for the class itself.
    actor: Any = ray.remote(num_cpus=0)(_Dispatcher).options(name=_NAME, namespace=_NAMESPACE).remote()
    ray.get(actor.__ray_ready__.remote())
    try:
        yield {_FOLDER_KEY: str(_ROOT)}
    finally:
        ray.kill(actor)


def submit(function: Callable[[Any], Any], items: Sequence[Any], needs: Needs) -> list[Any]:
    """Start one task per item, in the dispatcher's job where there is one, and give the references.

    A task whose worker is killed runs once more. This process must be connected to the cluster.
    """
    import ray

    if not is_dispatched():
        return _submit(function, items, needs)
    actor = ray.get_actor(_NAME, namespace=_NAMESPACE)
    references: list[Any] = ray.get(actor.submit.remote(function, items, needs, os.getpid()))
    return references


def _submit(function: Callable[[Any], Any], items: Sequence[Any], needs: Needs) -> list[Any]:
    import ray

    task: Any = ray.remote(_apply)
    task = task.options(
        num_cpus=needs.num_cpus, num_gpus=needs.num_gpus, memory=needs.memory_bytes or None, max_retries=1
    )
    return [task.remote(function, item) for item in items]


def _apply(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)


class _Dispatcher:
    """Submits tasks for processes of this machine, and cancels those of a process that is gone."""

    def __init__(self) -> None:
        self._submitted: dict[int, list[Any]] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def submit(self, function: Callable[[Any], Any], items: Sequence[Any], needs: Needs, process_id: int) -> list[Any]:
        references = _submit(function, items, needs)
        self._submitted[process_id] = self._submitted.get(process_id, []) + references
        return references

    def _watch(self) -> None:
        import ray

        while True:
            time.sleep(_POLL_SECONDS)
            for process_id in [number for number in self._submitted if not _is_running(number)]:
                for reference in self._submitted.pop(process_id):
                    ray.cancel(reference, force=True)


def _is_running(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
