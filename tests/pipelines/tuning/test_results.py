from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import yaml

from pipelines.tuning.results import pass_on

OPTIMIZER = {"name": "sgd", "learning_rate": 1e-05, "momentum": 0.99, "weight_decay": 3e-05}
COLUMNS = ["trial", "fold", "score", "epochs", "status", "seconds", "reason"]
SCHEDULE = {"name": "polynomial", "exponent": 0.9, "warmup_fraction": 0.0}


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
