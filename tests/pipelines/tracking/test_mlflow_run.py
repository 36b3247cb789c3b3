"""What MLflow holds after it was told."""

from __future__ import annotations

import dataclasses
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipelines.tracking.events import EventLog, RunDescription
from pipelines.tracking.mlflow_run import Store, open_store, resolve_uri, sync_results, sync_training

# MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

DATASET = {"name": "cohort", "digest": "f" * 64, "source": "data/cohort"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "mlflow.db"


@pytest.fixture(scope="module")
def store(database: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{database}", "cohort")
    yield store
    store.client._tracking_client.store._dispose_engine()


@pytest.fixture
def description(request: pytest.FixtureRequest) -> RunDescription:
    params = {"architecture": "unet_3d", "patch": [16, 16, 16]}
    return RunDescription("cohort", "unet", request.node.name, DATASET, params, {"git.commit": "c0ffee"})


def _log(path: Path, fold: int, num_epochs: int, status: str | None) -> Path:
    log = EventLog(path)
    log.append("run_start", dataset="cohort", entry="unet", fold=fold, seed=0, digest="d", params={"fold_size": 4})
    for epoch in range(num_epochs):
        _append_epoch(log, epoch)
    if status is not None:
        log.append("run_end", status=status, seconds=2.0)
    return path


def _append_epoch(log: EventLog, epoch: int) -> None:
    metrics = {"train/loss": 1.0 / (epoch + 1), "val/dice_left (L+R)": 0.1 * epoch}
    log.append("epoch", step=10 * (epoch + 1), epoch=epoch, metrics=metrics, seconds=0.5)


def _children(store: Store, parent_id: str) -> list[Any]:
    condition = f"tags.mlflow.parentRunId = '{parent_id}'"
    return sorted(
        store.client.search_runs([store.experiment_id], condition), key=lambda run: run.data.tags["repro.fold"]
    )


def _steps(store: Store, run: Any, key: str) -> list[int]:
    return [point.step for point in store.client.get_metric_history(run.info.run_id, key)]


def test_an_entry_is_a_parent_with_one_child_a_fold(store: Store, description: RunDescription, tmp_path: Path) -> None:
    paths = [_log(tmp_path / f"fold{fold}.jsonl", fold, 3, "finished") for fold in (0, 1)]
    parent_id = sync_training(store, description, paths)

    parent = store.client.get_run(parent_id)
    assert parent.info.run_name == "unet"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"architecture": "unet_3d", "patch": "[16, 16, 16]"}
    expected = {"repro.dataset": "cohort", "repro.entry": "unet", "repro.digest": description.digest}
    expected |= {"git.commit": "c0ffee"}
    assert expected.items() <= parent.data.tags.items()
    (dataset_input,) = parent.inputs.dataset_inputs
    assert (dataset_input.dataset.name, dataset_input.dataset.digest) == ("cohort", "f" * 36)
    assert dataset_input.dataset.source == '{"uri": "data/cohort"}'

    children = _children(store, parent_id)
    assert [child.data.tags["repro.fold"] for child in children] == ["0", "1"]
    assert [child.info.status for child in children] == ["FINISHED", "FINISHED"]
    assert [child.info.run_name for child in children] == ["fold 0 seed 0 unet", "fold 1 seed 0 unet"]
    assert children[0].data.params["fold_size"] == "4"
    assert len(children[0].inputs.dataset_inputs) == 1
    history = store.client.get_metric_history(children[1].info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(10, 1.0), (20, 0.5), (30, 1 / 3)]
    assert children[0].info.start_time <= history[0].timestamp
    assert set(children[0].data.metrics) == {
        "train/loss",
        "train/epoch",
        "train/seconds",
        "val/dice_left _L_R_",
    }


def test_entries_differ_in_colour_and_folds_have_that_of_their_entry(
    store: Store, description: RunDescription, tmp_path: Path
) -> None:
    colors = []
    for entry in ("unet", "slim_unet", "wide_unet"):
        told = dataclasses.replace(description, entry=entry, digest=f"{entry} of colours")
        parent_id = sync_training(store, told, [_log(tmp_path / f"{entry}.jsonl", 0, 1, "finished")])
        runs = [store.client.get_run(parent_id), *_children(store, parent_id)]
        of_entry = {run.data.tags["mlflow.runColor"] for run in runs}
        assert (len(runs), len(of_entry)) == (2, 1)
        colors += of_entry
    assert len(set(colors)) == 3


def test_a_second_telling_adds_nothing(store: Store, description: RunDescription, tmp_path: Path) -> None:
    path = _log(tmp_path / "fold0.jsonl", 0, 3, "finished")
    parent_id = sync_training(store, description, [path])
    assert sync_training(store, description, [path]) == parent_id
    (child,) = _children(store, parent_id)
    assert _steps(store, child, "train/loss") == [10, 20, 30]
    assert len(child.inputs.dataset_inputs) == 1


def test_an_interrupted_telling_is_completed(
    store: Store, description: RunDescription, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for one epoch of four values and most of a second one.
    monkeypatch.setattr("pipelines.tracking.mlflow_run._MAX_METRICS_A_CALL", 7)
    path = _log(tmp_path / "fold0.jsonl", 0, 5, "finished")
    log_batch = store.client.log_batch
    steps_told = []

    def interrupted(run_id: str, metrics: Any = (), **rest: Any) -> None:
        if metrics:
            steps_told.append([metric.step for metric in metrics])
        if len(steps_told) == 3:
            raise ConnectionError("gone")
        log_batch(run_id, metrics=metrics, **rest)

    monkeypatch.setattr(store.client, "log_batch", interrupted)
    with pytest.raises(ConnectionError):
        sync_training(store, description, [path])
    assert steps_told == [[10] * 4, [20] * 4, [30] * 4]
    monkeypatch.setattr(store.client, "log_batch", log_batch)
    parent_id = sync_training(store, description, [path])
    (child,) = _children(store, parent_id)
    assert child.info.status == "FINISHED"
    for key in ("train/loss", "train/epoch"):
        assert _steps(store, child, key) == [10, 20, 30, 40, 50]


def test_a_growing_log_is_told_in_parts_and_a_repeated_epoch_once(
    store: Store, description: RunDescription, tmp_path: Path
) -> None:
    path = _log(tmp_path / "fold0.jsonl", 0, 2, status=None)
    never_started = tmp_path / "fold1.jsonl"
    parent_id = sync_training(store, description, [path, never_started], is_live=True)
    (child,) = _children(store, parent_id)
    assert (child.info.status, store.client.get_run(parent_id).info.status) == ("RUNNING", "RUNNING")

    log = EventLog(path)
    log.append("run_start", fold=0, seed=0, params={})
    for epoch in (1, 2):
        _append_epoch(log, epoch)
    log.append("run_end", status="finished", seconds=1.0)
    sync_training(store, description, [path, never_started], is_live=True)
    (child,) = _children(store, parent_id)
    assert _steps(store, child, "train/loss") == [10, 20, 30]
    assert (child.info.status, store.client.get_run(parent_id).info.status) == ("FINISHED", "RUNNING")


@pytest.mark.parametrize(
    ("statuses", "is_live", "expected"),
    [
        (("finished", "failed"), False, "FAILED"),
        (("finished", None), False, "KILLED"),
        (("failed", None), True, "RUNNING"),
    ],
)
def test_the_parent_has_the_status_of_its_trainings(
    store: Store,
    description: RunDescription,
    tmp_path: Path,
    statuses: tuple[str | None, ...],
    is_live: bool,
    expected: str,
) -> None:
    paths = [_log(tmp_path / f"fold{fold}.jsonl", fold, 1, status) for fold, status in enumerate(statuses)]
    parent_id = sync_training(store, description, paths, is_live=is_live)
    assert store.client.get_run(parent_id).info.status == expected


def test_a_collapse_stands_as_the_note_of_its_fold(store: Store, description: RunDescription, tmp_path: Path) -> None:
    paths = [_log(tmp_path / f"fold{fold}.jsonl", fold, 1, None) for fold in (0, 1)]
    # A kill between event and state makes it happen once more.
    for _ in range(2):
        EventLog(paths[1]).append("collapse", step=10, epoch=0, optimizer={"momentum": 0.95}, message="It was 0.")
    parent_id = sync_training(store, description, paths, is_live=True)
    notes = [child.data.tags.get("mlflow.note.content") for child in _children(store, parent_id)]
    assert notes == [None, "It was 0."]
    (child,) = (child for child in _children(store, parent_id) if child.data.tags["repro.fold"] == "1")
    assert _steps(store, child, "train/loss") == [10]


def test_another_digest_is_another_run(store: Store, description: RunDescription, tmp_path: Path) -> None:
    path = _log(tmp_path / "fold0.jsonl", 0, 1, "finished")
    other = dataclasses.replace(description, digest="other")
    assert sync_training(store, description, [path]) != sync_training(store, other, [path])


def test_values_that_are_not_finite_are_told_once(store: Store, description: RunDescription, tmp_path: Path) -> None:
    log = EventLog(_log(tmp_path / "fold0.jsonl", 0, 0, None))
    log.append("epoch", step=1, epoch=0, metrics={"train/loss": math.nan, "val/loss": math.inf})
    for _ in range(2):
        parent_id = sync_training(store, description, [log.path])
    (child,) = _children(store, parent_id)
    assert _steps(store, child, "train/loss") == [1]
    assert math.isnan(child.data.metrics["train/loss"])


def test_results_stand_on_the_parent(
    store: Store, description: RunDescription, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = tmp_path / "curve.svg"
    figure.write_text("<svg>1</svg>")
    metrics = {"cv/dice": 0.8, "test/dice": math.nan}
    uploads = []
    log_artifact = store.client.log_artifact

    def counted(run_id: str, path: str) -> None:
        uploads.append(path)
        log_artifact(run_id, path)

    monkeypatch.setattr(store.client, "log_artifact", counted)
    parent_id = sync_results(store, description, metrics, [figure], "Dice **0.8**")
    sync_results(store, description, metrics, [figure], "Dice **0.8**")
    assert len(uploads) == 1
    figure.write_text("<svg>2</svg>")
    sync_results(store, description, metrics | {"cv/dice": 0.9}, [figure], "Dice **0.9**")
    assert len(uploads) == 2

    training = sync_training(store, description, [_log(tmp_path / "fold0.jsonl", 0, 1, "finished")])
    assert training == parent_id
    parent = store.client.get_run(parent_id)
    assert parent.data.tags["mlflow.note.content"] == "Dice **0.9**"
    assert [point.value for point in store.client.get_metric_history(parent_id, "cv/dice")] == [0.8, 0.9]
    assert len(store.client.get_metric_history(parent_id, "test/dice")) == 1
    (artifact,) = store.client.list_artifacts(parent_id)
    assert artifact.path == "curve.svg"
    downloaded = store.client.download_artifacts(parent_id, "curve.svg", str(tmp_path))
    assert Path(downloaded).read_text() == "<svg>2</svg>"


def test_a_local_database_has_its_artefacts_beside_it_and_does_not_block_readers(store: Store, database: Path) -> None:
    experiment = store.client.get_experiment(store.experiment_id)
    assert experiment.artifact_location == (database.parent / "mlruns/cohort").as_uri()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_opening_again_finds_the_experiment(store: Store, database: Path) -> None:
    assert open_store(f"sqlite:///{database}", "cohort").experiment_id == store.experiment_id


def test_a_deleted_experiment_is_an_error_with_the_fix(store: Store, database: Path) -> None:
    deleted = open_store(f"sqlite:///{database}", "old")
    store.client.delete_experiment(deleted.experiment_id)
    with pytest.raises(ValueError, match=f"'old' was deleted.*--experiment-id {deleted.experiment_id}"):
        open_store(f"sqlite:///{database}", "old")


@pytest.mark.parametrize(
    ("argument", "variable", "expected"),
    [
        (None, None, "sqlite:///mlflow.db"),
        (None, "http://b", "http://b"),
        ("http://a", "http://b", "http://a"),
        ("none", "http://b", None),
        (None, "none", None),
    ],
)
def test_the_address_is_the_argument_else_the_variable_else_a_file_here(
    monkeypatch: pytest.MonkeyPatch, argument: str | None, variable: str | None, expected: str | None
) -> None:
    if variable is None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    assert resolve_uri(argument) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, "sqlite:///{checkout}/mlflow.db"),
        ("sqlite:///runs/own.db", "sqlite:///{checkout}/runs/own.db"),
        ("sqlite:////elsewhere/own.db", "sqlite:////elsewhere/own.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("http://a", "http://a"),
        ("none", None),
    ],
)
def test_a_queued_experiment_tells_the_database_of_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str | None, expected: str | None
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpx1"
    copy.mkdir(parents=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(copy)
    assert resolve_uri(uri) == (expected and expected.format(checkout=tmp_path.resolve()))


def test_a_run_keeps_the_tags_of_whoever_told_it_first(
    store: Store, description: RunDescription, tmp_path: Path
) -> None:
    log = _log(tmp_path / "a.jsonl", 0, 1, "finished")
    sync_training(store, description, [log])
    later = dataclasses.replace(description, tags={"git.commit": "decaf", "dvc.exp": "late-fox"})
    parent_id = sync_results(store, later, {}, [], "")
    (child,) = _children(store, parent_id)
    for run in (store.client.get_run(parent_id), child):
        assert run.data.tags["git.commit"] == "c0ffee"
        assert "dvc.exp" not in run.data.tags
