"""What a search leaves: `best.yaml`, which training obeys, `trials.parquet`, and the events of every trial."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.atomic_files import atomic_path, write_text
from pipelines.tuning.space import resolved_settings, tuned_values


@dataclass(frozen=True)
class FoldTrials:
    """The trials of one fold.

    Attributes:
        fold: which.
        trials: one dict a trial in the order they were drawn, as `search_with_ray` gives them.
        trials_dir: where each trial has its `events.jsonl`, below its id.
    """

    fold: int
    trials: Sequence[Mapping[str, Any]]
    trials_dir: Path


def write_results(plan: Mapping[str, Any], folds: Sequence[FoldTrials], out_dir: Path) -> None:
    """Write the trials of an entry, and the settings of the best trial of each fold.

    The best one has the highest score among those that were trained to the end; of equals, the first.

    Args:
        plan: the plan as JSON values.
        folds: the trials.
        out_dir: `tuned/D/A`.

    Raises:
        ValueError: none of the trials of a fold could be trained.
    """
    best, rows = {}, []
    for of_fold in folds:
        names = [f"fold{of_fold.fold}_trial{number:03d}" for number in range(len(of_fold.trials))]
        for name, trial in zip(names, of_fold.trials, strict=True):
            rows.append(_row(plan, of_fold.fold, name, trial))
            with atomic_path(out_dir / "events" / f"{name}.jsonl") as temporary:
                shutil.copyfile(of_fold.trials_dir / trial["trial_id"] / "events.jsonl", temporary)
        finished = [number for number, trial in enumerate(of_fold.trials) if trial["outcome"] == "finished"]
        if not finished:
            raise ValueError(
                f"{plan['entry']} fold {of_fold.fold}: none of {len(of_fold.trials)} trials could be trained; the "
                f"first says: {of_fold.trials[0]['reason']}; narrow tuning.space"
            )
        winner = max(finished, key=lambda number: of_fold.trials[number]["score"])
        trial = of_fold.trials[winner]
        best[of_fold.fold] = {
            "trial": names[winner],
            "score": trial["score"],
            "num_trials": len(of_fold.trials),
            **tuned_values(plan, trial["settings"]),
        }
    _write_best({"num_trials": len(rows), "folds": best}, out_dir)
    _write_trials(rows, out_dir)


def pass_on(optimizer: dict[str, Any], schedule: dict[str, Any], out_dir: Path) -> None:
    """Write `best.yaml` with the settings given, and a `trials.parquet` without a trial.

    Args:
        optimizer: name and settings.
        schedule: name and settings.
        out_dir: folder of the two files.
    """
    _write_best({"num_trials": 0, "optimizer": optimizer, "schedule": schedule}, out_dir)
    _write_trials([], out_dir)


def _row(plan: Mapping[str, Any], fold: int, name: str, trial: Mapping[str, Any]) -> dict[str, Any]:
    has_failed = trial["outcome"] == "failed"
    return {
        "trial": name,
        "fold": fold,
        **resolved_settings(plan, trial["settings"]),
        "score": None if has_failed else trial["score"],
        "epochs": trial["epoch"],
        "status": trial["outcome"],
        "seconds": trial["seconds"],
        "reason": trial["reason"],
    }


def _write_best(best: dict[str, Any], out_dir: Path) -> None:
    import yaml

    write_text(out_dir / "best.yaml", yaml.safe_dump(best, sort_keys=False))


def _write_trials(rows: list[dict[str, Any]], out_dir: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [
        ("trial", pa.string()),
        ("fold", pa.int64()),
        ("score", pa.float64()),
        ("epochs", pa.int64()),
        ("status", pa.string()),
        ("seconds", pa.float64()),
        ("reason", pa.string()),
    ]
    table = pa.Table.from_pylist(rows) if rows else pa.schema(columns).empty_table()
    with atomic_path(out_dir / "trials.parquet") as temporary:
        pq.write_table(table, temporary)
