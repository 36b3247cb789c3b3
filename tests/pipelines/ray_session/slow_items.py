"""Work for `map_cases`, and a program that does it: `python -m tests.pipelines.ray_session.slow_items FOLDER`."""

from __future__ import annotations

import functools
import os
import sys
import time
from pathlib import Path

from pipelines.exits import exits_cleanly
from pipelines.ray_session.map_cases import map_cases


def after(seconds: float) -> tuple[float, int]:
    time.sleep(seconds)
    return seconds, os.getpid()


def refuse_three(item: int) -> int:
    if item == 3:
        raise ValueError("case 3: damaged; repair it")
    return item


def threads_and_folder(_: int) -> tuple[str | None, str]:
    return os.environ.get("OMP_NUM_THREADS"), str(Path.cwd())


def has_imported(module: str) -> bool:
    return module in sys.modules


def note(folder: str, item: int) -> int:
    Path(folder, f"{item}").touch()
    return item


def note_and_wait(folder: str, item: int) -> None:
    Path(folder, f"started{item}").write_text(str(os.getpid()))
    time.sleep(120)


@exits_cleanly
def main() -> None:
    map_cases(functools.partial(note_and_wait, sys.argv[1]), range(6), "wait")


if __name__ == "__main__":
    main()
