"""Wall time, CPU time and peak memory of a command with all its children."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# Between two looks passes this part of the time so far, within these bounds.
_POLL_SHARE = 0.02
_SHORTEST_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.02, 1.0


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        wall_s: seconds from start to end.
        cpu_s: user and system seconds of the command and of all descendants that were waited for.
        peak_gib: largest sum of proportional set sizes over the process tree, looked at fifty times a second at first
            and once a second after a minute.
    """

    wall_s: float
    cpu_s: float
    peak_gib: float


def measure(command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> Measured:
    """Run a command, its output into `log`, with `environment` added to this process's.

    Raises:
        RuntimeError: the command failed.
    """
    started, cpu_before = time.monotonic(), _cpu_s_of_children()
    peak_kib = 0
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            peak_kib = max(peak_kib, sum(map(_proportional_kib, _tree(process.pid))))
            pause = _POLL_SHARE * (time.monotonic() - started)
            time.sleep(min(max(pause, _SHORTEST_POLL_SECONDS), _LONGEST_POLL_SECONDS))
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}; see {log}")
    return Measured(time.monotonic() - started, _cpu_s_of_children() - cpu_before, peak_kib / 2**20)


def _cpu_s_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
