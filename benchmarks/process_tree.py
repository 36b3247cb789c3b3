"""Wall time and peak memory of a command with all its children."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Measured:
    """What a command took.

    Attributes:
        wall_s: seconds from start to end.
        peak_gib: largest sum of proportional set sizes over the process tree, looked at once a second.
    """

    wall_s: float
    peak_gib: float


def measure(command: list[str], folder: Path, log: Path, environment: dict[str, str]) -> Measured:
    """Run a command, its output into `log`, with `environment` added to this process's.

    Raises:
        RuntimeError: the command failed.
    """
    started = time.monotonic()
    peak_kib = 0
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            peak_kib = max(peak_kib, sum(map(_proportional_kib, _tree(process.pid))))
            time.sleep(_POLL_SECONDS)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}; see {log}")
    return Measured(time.monotonic() - started, peak_kib / 2**20)


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
