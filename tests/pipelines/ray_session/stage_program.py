"""A stage for tests: `python -m tests.pipelines.ray_session.stage_program WORK FOLDER` hands out two tasks."""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.ray_session.tasks import run_tasks, run_where_warm


def _tell_process(item: int) -> tuple[int, str]:
    time.sleep(1.0)  # long enough that the other task goes to another worker
    return os.getpid(), str(Path.cwd())


def _occupy(item: int) -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(0.5)
    return start, time.monotonic()


def _wait(folder: str, item: int) -> None:
    Path(folder, f"started{item}").write_text(str(os.getpid()))
    try:
        for _ in range(1200):
            time.sleep(0.1)
    except KeyboardInterrupt:
        Path(folder, f"saved{item}").touch()
        raise


def _refuse(item: int) -> None:
    raise ValueError(f"case {item}: damaged; repair it")


@exits_cleanly
def main() -> None:
    """Do WORK: print the processes of the tasks, wait in them, or fail."""
    work, folder = sys.argv[1:]
    os.chdir(folder)
    if work == "tell":
        told = [result for _, result in run_tasks(_tell_process, range(2))]
        assert {cwd for _, cwd in told} == {folder}
        assert run_where_warm(os.getpid) in [pid for pid, _ in told]
        print(*sorted(pid for pid, _ in told))
    elif work == "occupy":
        (_, end), (start, _) = sorted(span for _, span in run_tasks(_occupy, range(2), memory_bytes=2**60))
        print("apart" if end <= start else "together")
    else:
        list(run_tasks(functools.partial(_wait, folder) if work == "wait" else _refuse, range(2)))


if __name__ == "__main__":
    main()
