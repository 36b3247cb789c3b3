from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.tracking.events import EventLog
from pipelines.tuning.results import FoldTrials, pass_on, write_results

OPTIMIZER = {"name": "sgd", "learning_rate": 1e-05, "momentum": 0.99, "weight_decay": 3e-05}
SCHEDULE = {"name": "polynomial", "exponent": 0.9, "warmup_fraction": 0.0}
PLAN = {"entry": "a", "optimizer": OPTIMIZER, "schedule": SCHEDULE, "network": {"norm": "batch"}}
COLUMNS = ["trial", "fold", "score", "epochs", "status", "seconds", "reason"]


def test_the_settings_come_back_as_they_were(tmp_path: Path) -> None:
    pass_on(OPTIMIZER, SCHEDULE, tmp_path / "tuned")
    best = yaml.safe_load((tmp_path / "tuned" / "best.yaml").read_text(encoding="utf-8"))
    assert best == {"num_trials": 0, "optimizer": OPTIMIZER, "schedule": SCHEDULE}


def test_there_is_no_trial(tmp_path: Path) -> None:
    pass_on(OPTIMIZER, SCHEDULE, tmp_path)
    trials = pq.read_table(tmp_path / "trials.parquet")
    assert (trials.num_rows, trials.column_names) == (0, COLUMNS)


def test_the_files_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pass_on(OPTIMIZER, SCHEDULE, tmp_path / name)
    for file in ("best.yaml", "trials.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def fold_trials(folder: Path, fold: int, *ended: tuple[str, float, dict[str, Any]]) -> FoldTrials:
    """Trials by outcome, score and settings; each has told that it began."""
    rows = []
    for number, (outcome, score, settings) in enumerate(ended):
        trial_id = f"id{fold}{number}"
        EventLog(folder / trial_id / "events.jsonl").append("run_start", params={"trial": trial_id})
        told = {"epoch": 3, "seconds": 1.5, "reason": "loss is inf" if outcome == "failed" else ""}
        rows.append({"trial_id": trial_id, "settings": settings, "score": score, "outcome": outcome, **told})
    return FoldTrials(fold, rows, folder)


def test_each_fold_gets_its_best_trial_among_those_that_were_trained_to_the_end(tmp_path: Path) -> None:
    first = fold_trials(
        tmp_path / "work",
        0,
        ("finished", 0.5, {"learning_rate": 0.1, "network.norm": "batch"}),
        ("stopped_early", 0.9, {"learning_rate": 0.2, "network.norm": "batch"}),
        ("finished", 0.7, {"learning_rate": 0.3, "network.norm": "instance"}),
        ("finished", 0.7, {"learning_rate": 0.4, "network.norm": "batch"}),
    )
    second = fold_trials(
        tmp_path / "work",
        1,
        ("failed", -1e9, {"learning_rate": 9.0, "network.norm": "batch"}),
        ("finished", 0.1, {"learning_rate": 0.5, "network.norm": "batch"}),
    )
    write_results(PLAN, [first, second], tmp_path / "out")
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text(encoding="utf-8"))
    assert best["num_trials"] == 6
    assert best["folds"][0] == {
        "trial": "fold0_trial002",
        "score": 0.7,
        "num_trials": 4,
        "optimizer": OPTIMIZER | {"learning_rate": 0.3},
        "schedule": SCHEDULE,
        "network": {"norm": "instance"},
    }
    assert best["folds"][1]["optimizer"]["learning_rate"] == 0.5

    rows = pq.read_table(tmp_path / "out" / "trials.parquet").to_pylist()
    assert list(rows[0]) == ["trial", "fold", "learning_rate", "network.norm", *COLUMNS[2:]]
    assert [row["status"] for row in rows] == [
        "finished",
        "stopped_early",
        "finished",
        "finished",
        "failed",
        "finished",
    ]
    assert (rows[4]["score"], rows[4]["reason"]) == (None, "loss is inf")
    for row, trial_id in zip(rows, ["id00", "id01", "id02", "id03", "id10", "id11"], strict=True):
        event = json.loads((tmp_path / "out" / "events" / f"{row['trial']}.jsonl").read_text(encoding="utf-8"))
        assert event["params"] == {"trial": trial_id}


def test_a_fold_none_of_whose_trials_trains_is_told(tmp_path: Path) -> None:
    failed = fold_trials(tmp_path, 1, ("failed", -1e9, {"learning_rate": 9.0}))
    with pytest.raises(ValueError, match=r"a fold 1: none of 1 trials could be trained; the first says: loss is inf"):
        write_results(PLAN, [failed], tmp_path / "out")
