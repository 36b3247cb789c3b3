"""What MLflow holds of a search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.tracking.events import EventLog, RunDescription
from pipelines.tracking.mlflow_run import Store, open_store, sync_training
from pipelines.tracking.trials import sync_trials, tell_trials

# MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

DESCRIPTION = RunDescription(
    "cohort",
    "unet",
    "d" * 64,
    {"name": "cohort", "digest": "f" * 64, "source": "data/cohort"},
    {"architecture": "unet_3d"},
    {"git.commit": "c0ffee"},
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}", "cohort")
    yield store
    store.client._tracking_client.store._dispose_engine()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    rows = []
    for number, (status, score) in enumerate([("finished", 0.7), ("stopped_early", 0.2), ("failed", None)]):
        name = f"fold1_trial00{number}"
        settings = {"learning_rate": 0.1**number, "network.norm": "batch" if number else None}
        told = {"score": score, "epochs": 2, "status": status, "seconds": 1.0, "reason": ""}
        rows.append({"trial": name, "fold": 1, **settings, **told})
        log = EventLog(folder / "events" / f"{name}.jsonl")
        log.append("run_start", params={})
        for epoch in range(2):
            log.append("epoch", step=epoch + 1, epoch=epoch, metrics={"val/loss": 1.0 - epoch}, score=0.1, seconds=0.5)
    pq.write_table(pa.Table.from_pylist(rows), folder / "trials.parquet")
    return folder


def runs(store: Store, kind: str) -> list[Any]:
    found = store.client.search_runs([store.experiment_id], f"tags.`repro.kind` = '{kind}'")
    return sorted(found, key=lambda run: run.info.run_name)


def test_trials_are_runs_below_the_entry_and_told_once(store: Store, tuned: Path, tmp_path: Path) -> None:
    assert sync_trials(store, DESCRIPTION, tuned) == 3
    training = EventLog(tmp_path / "fold1.jsonl")
    training.append("run_start", dataset="cohort", entry="unet", fold=1, seed=0, digest="d", params={})
    training.append("run_end", status="finished", seconds=2.0)
    parent = sync_training(store, DESCRIPTION, [training.path])
    assert sync_trials(store, DESCRIPTION, tuned) == 3

    (entry,) = runs(store, "entry")
    assert (entry.info.run_id, entry.info.status) == (parent, "FINISHED")
    assert len(runs(store, "training")) == 1
    told = runs(store, "trial")
    assert [run.info.run_name for run in told] == [f"unet fold1_trial00{number}" for number in range(3)]
    assert {run.data.tags["mlflow.parentRunId"] for run in told} == {parent}
    assert [run.data.tags["repro.outcome"] for run in told] == ["finished", "stopped_early", "failed"]
    assert [run.info.status for run in told] == ["FINISHED", "FINISHED", "FAILED"]
    assert told[1].data.params == {"learning_rate": "0.1", "network.norm": "batch"}
    assert told[0].data.params == {"learning_rate": "1.0"}
    assert [run.data.metrics.get("tune/score") for run in told] == [0.7, 0.2, None]
    curve = store.client.get_metric_history(told[0].info.run_id, "val/loss")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.0)]


def test_an_entry_that_was_not_searched_for_gets_no_run(store: Store, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([], schema=pa.schema([("trial", pa.string())])), tmp_path / "trials.parquet")
    num_runs = len(runs(store, "entry"))
    assert sync_trials(store, DESCRIPTION, tmp_path) == 0
    assert len(runs(store, "entry")) == num_runs


def test_a_server_that_cannot_be_reached_is_told_in_one_line(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not tell_trials(DESCRIPTION, tuned, "http://user:secret@127.0.0.1:9")
    said = capsys.readouterr().err
    assert "could not be told" in said
    assert "secret" not in said


def test_without_tracking_nothing_is_opened(tuned: Path) -> None:
    assert not tell_trials(DESCRIPTION, tuned, "none")
