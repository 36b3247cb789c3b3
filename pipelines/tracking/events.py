"""The log of a training: one JSON object a line, appended while it runs, read by everyone who tells about it.

Kinds of event, beside `kind` and `time` (seconds since 1970):
    run_start: dataset, entry, fold, seed, digest, params (flat dictionary). Once, also where the training was resumed.
    epoch: step (optimiser steps done), epoch, metrics (`train/…` and `val/…` to number), score (what says which epoch
        is better; higher is), seconds.
    collapse: step, epoch, optimizer (its settings from here on), message (a sentence). After the epoch at whose end a
        training that had learned nothing was begun anew; twice where a kill before the next saved state undid it.
    run_end: status ("finished" or "failed"), seconds.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]


@dataclass(frozen=True)
class RunDescription:
    """What a training is, as far as whoever tracks it must know.

    Dataset name, entry and digest together say which training it is; two trainings that share them are one run.

    Attributes:
        experiment: Group of runs that are compared; the name of the dataset.
        entry: Name of the entry in the study.
        digest: Hash of plan, tuned values and prepared index.
        dataset: `name`, `digest` and `source` (a path) of the data.
        params: Few flat settings worth a column: architecture, configuration, patch, batch, optimiser.
        tags: Where it comes from: `git.commit`, `dvc.lock.digest` and the like.
    """

    experiment: str
    entry: str
    digest: str
    dataset: dict[str, str]
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Give the fields as a JSON object."""
        return json.dumps(asdict(self), indent=2, default=_plain) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunDescription:
        """Read what `to_json` gave."""
        return cls(**json.loads(text))


class EventLog:
    """Append events to one file; every event is on disk for other readers when `append` returns.

    It holds no open file, so it can be sent to another process. Only one process may append at a time.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event of this `kind`, with the time of now; numbers may be of NumPy or PyTorch.

        A line that a killed process left half written is removed first, or it would swallow this one.
        """
        line = json.dumps({"kind": kind, "time": time.time(), **fields}, default=_plain) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_cut_line(self.path)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)


def read_events(path: Path | str) -> list[Event]:
    """Give the events of a file in the order written; none when the file does not exist.

    The file may be growing: a last line that is not complete yet is left out.

    Raises:
        ValueError: a complete line is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return []
    *lines, _cut = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path}: line {number} is not a JSON event ({error}); restore the file with `dvc checkout`, "
                "or delete it and train again"
            ) from error
    return events


def epochs(events: list[Event]) -> list[Event]:
    """Give the epoch events, one a step and in order of step.

    A training that went on from a checkpoint repeats the epochs since that checkpoint; the last of each stays.
    """
    by_step = {event["step"]: event for event in events if event["kind"] == "epoch"}
    return [by_step[step] for step in sorted(by_step)]


def _remove_cut_line(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value.item()
