"""Tell trainings and results to MLflow, from the files that the stages wrote.

Everything here may run live, later, twice, or after an interruption: a run is found by its tags, what it has already
is left alone and what it lacks is added. So nothing about MLflow needs to be remembered anywhere else.

Layout in MLflow: one experiment a dataset; one parent run an entry (tags `repro.dataset`, `repro.entry`,
`repro.digest`, `repro.kind` = entry), found again by these; below it one run a fold and seed (`repro.kind` = training,
`repro.fold`, `repro.seed`) and one a trial of the search (`repro.kind` = trial, `repro.trial`, `repro.fold`,
`repro.outcome`).
MLflow cannot take a value back: when a resumed training repeats an epoch, the value told first stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.tracking.events import Event, RunDescription, epochs, read_events

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"

# Without these a server that does not answer holds a call for many minutes, every run that ends prints two addresses
# to standard output, and usage is reported to others.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
_SQLITE_PREFIX = "sqlite:///"
# Folder of DVC's copies of a checkout (dvc/repo/experiments/utils.py, 3.67).
_COPIES = (".dvc", "tmp", "exps")
# Told with every epoch and in the same call, so the steps of this key are the epochs that MLflow has whole.
_EPOCH_KEY = "train/epoch"
# MLflow's own choice may give two of four entries one colour. These are the colours of Okabe and Ito (2008), which
# people with any colour vision can tell apart, without black and with the yellow last, which is faint on white.
_COLOR_TAG = "mlflow.runColor"
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442")
# Limits of MLflow's REST interface (mlflow/utils/validation.py, 3.17).
_MAX_METRICS_A_CALL = 1000
_MAX_DATASET_DIGEST_LENGTH = 36
_NOTE_TAG = "mlflow.note.content"


@dataclass(frozen=True)
class Store:
    """An open MLflow store and the experiment in it."""

    client: MlflowClient
    experiment_id: str


@dataclass(frozen=True)
class TrialRun:
    """A trial of a search.

    Attributes:
        name: Unique among the trials of the entry.
        fold: Fold whose search it belongs to.
        outcome: `finished`, `stopped_early` or `failed`.
        params: The settings it had.
        score: What it reached; None where it failed.
        log: Its events.
    """

    name: str
    fold: int
    outcome: str
    params: dict[str, Any]
    score: float | None
    log: list[Event]


def resolve_uri(tracking_uri: str | None) -> str | None:
    """Give the address to use: `tracking_uri`, else $MLFLOW_TRACKING_URI, else a file here; None when it is "none".

    In DVC's temporary copy of the checkout, a file's path is relative to the checkout, not to the copy.
    """
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI
    if uri == "none":
        return None
    checkout = _checkout_of_copy(Path.cwd())
    if checkout is not None and _is_local_database(uri):
        # DVC deletes the copy when the experiment is over. An absolute path stays what it is.
        return f"{_SQLITE_PREFIX}{checkout / uri.removeprefix(_SQLITE_PREFIX)}"
    return uri


def open_store(tracking_uri: str | None, experiment: str) -> Store:
    """Open MLflow and the experiment, creating both when they do not exist; safe when several processes do it at once.

    Args:
        tracking_uri: Address as in `resolve_uri`, not "none". Files of runs in a local database lie in `mlruns` beside
            it.
        experiment: Name of the experiment.

    Raises:
        ValueError: the experiment was deleted in MLflow.
        Exception: whatever MLflow raises when it cannot be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    uri = resolve_uri(tracking_uri)
    assert uri is not None, "tracking is disabled; do not open a store"
    if not _is_local_database(uri):
        client = MlflowClient(tracking_uri=uri)
        return Store(client, _find_or_create_experiment(client, experiment, artifact_location=None))
    database = Path(uri.removeprefix(_SQLITE_PREFIX)).absolute()
    with _locked(database):
        client = MlflowClient(tracking_uri=uri)
        artifact_location = (database.parent / "mlruns" / experiment).as_uri()
        experiment_id = _find_or_create_experiment(client, experiment, artifact_location)
        # Readers (the user interface) and the one writer no longer wait for each other; the file remembers the mode.
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    return Store(client, experiment_id)


def sync_training(
    store: Store, description: RunDescription, event_paths: Sequence[Path], *, is_live: bool = False
) -> str:
    """Tell MLflow what the event files of one entry say: the parent run, one run a file, their status and curves.

    Args:
        store: Where to.
        description: The training; its parameters go to all of its runs.
        event_paths: One file a fold and seed, all that there will be; the parent is finished when all are.
        is_live: Somebody may still write to the files; else a training without an end was stopped.

    Returns:
        Id of the parent run.
    """
    logs = [read_events(path) for path in event_paths]
    start_time = min((log[0]["time"] for log in logs if log), default=time.time())
    parent = _find_or_create_parent(store, description, start_time)
    children = {
        (run.data.tags["repro.fold"], run.data.tags["repro.seed"]): run
        for run in _find_runs(store, {"mlflow.parentRunId": parent.info.run_id, "repro.kind": "training"})
    }
    statuses, end_times = [], [start_time]
    for log in logs:
        start = next((event for event in log if event["kind"] == "run_start"), None)
        status, end_time = _status(log, is_live)
        statuses.append(status)
        end_times.append(end_time)
        if start is None:
            continue
        child = children.get((str(start["fold"]), str(start["seed"])))
        child = child or _create_child(store, description, parent, start)
        params = {**description.params, **start.get("params", {})}
        _add_missing(store, child, params, description.tags, description.dataset)
        _add_epochs(store, child, epochs(log))
        _note_collapse(store, child, log)
        _set_status(store, child, status, end_time)
    _set_status(store, parent, _common_status(statuses), max(end_times))
    return parent.info.run_id


def sync_trial_runs(store: Store, description: RunDescription, trials: Sequence[TrialRun]) -> None:
    """Tell MLflow the trials of an entry's search, which is over: one run each, with settings, curve and score.

    Args:
        store: Where to.
        description: The training that the search was for; need not have been told before.
        trials: One at least.
    """
    parent = _find_or_create_parent(store, description, min(trial.log[0]["time"] for trial in trials))
    identity = {
        "mlflow.parentRunId": parent.info.run_id,
        "repro.kind": "trial",
        "repro.dataset": description.dataset["name"],
        "repro.entry": description.entry,
        "repro.digest": description.digest,
    }
    known = {run.data.tags["repro.trial"]: run for run in _find_runs(store, identity)}
    for trial in trials:
        tags = identity | {
            "repro.trial": trial.name,
            "repro.fold": str(trial.fold),
            "repro.outcome": trial.outcome,
        }
        run = known.get(trial.name)
        run = run or _create_run(store, f"{description.entry} {trial.name}", tags, trial.log[0]["time"])
        _add_missing(store, run, trial.params, description.tags, description.dataset)
        _add_epochs(store, run, epochs(trial.log))
        _note_collapse(store, run, trial.log)
        if trial.score is not None and "tune/score" not in run.data.metrics:
            store.client.log_metric(run.info.run_id, "tune/score", trial.score)
        _set_status(store, run, "FAILED" if trial.outcome == "failed" else "FINISHED", trial.log[-1]["time"])


def sync_results(
    store: Store, description: RunDescription, metrics: dict[str, float], artifacts: Sequence[Path], note: str
) -> str:
    """Tell MLflow the results of an entry, on its parent run.

    Args:
        store: Where to.
        description: The training that the results are of; need not have been told before.
        metrics: Final figures under `test/…` and `cv/…`; told again only when the value changed.
        artifacts: Pictures, tables, reports; uploaded again only when the content of any changed.
        note: The result in words, Markdown, at most 8000 characters.

    Returns:
        Id of the parent run.
    """
    from mlflow.entities import Metric, RunTag

    parent = _find_or_create_parent(store, description, time.time())
    known = parent.data.metrics
    timestamp = _milliseconds(time.time())
    changed = [
        Metric(_metric_key(key), float(value), timestamp, 0)
        for key, value in metrics.items()
        if not _is_same(known.get(_metric_key(key)), value)
    ]
    digest = _content_digest(artifacts)
    tags = []
    if parent.data.tags.get("repro.artifacts") != digest:
        for path in artifacts:
            store.client.log_artifact(parent.info.run_id, str(path))
        tags.append(RunTag("repro.artifacts", digest))
    if parent.data.tags.get(_NOTE_TAG) != note:
        tags.append(RunTag(_NOTE_TAG, note))
    store.client.log_batch(parent.info.run_id, metrics=changed, tags=tags)
    _set_status(store, parent, "FINISHED", time.time())
    return parent.info.run_id


def _find_or_create_experiment(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            # Pages that open an experiment by its kind go by this tag; 3.17's go by the browser (mlflow_pages.py).
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return client.create_experiment(name, artifact_location, tags)
        except MlflowException as error:
            # Another process was faster.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
            assert found is not None
    if found.lifecycle_stage == "deleted":
        raise ValueError(
            f"the MLflow experiment {name!r} was deleted; "
            f"restore it with `mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return found.experiment_id


def _find_or_create_parent(store: Store, description: RunDescription, start_time: float) -> Run:
    identity = {
        "repro.kind": "entry",
        "repro.dataset": description.dataset["name"],
        "repro.entry": description.entry,
        "repro.digest": description.digest,
    }
    found = _find_runs(store, identity)
    if found:
        parent = found[0]
    else:
        num_entries = len(_find_runs(store, {"repro.kind": "entry"}))
        color = {_COLOR_TAG: _COLORS[num_entries % len(_COLORS)]}
        parent = _create_run(store, description.entry, identity | color, start_time)
    _add_missing(store, parent, description.params, description.tags, description.dataset)
    return parent


def _create_child(store: Store, description: RunDescription, parent: Run, start: Event) -> Run:
    tags = {
        "mlflow.parentRunId": parent.info.run_id,
        "repro.kind": "training",
        "repro.dataset": description.dataset["name"],
        "repro.entry": description.entry,
        "repro.digest": description.digest,
        "repro.fold": str(start["fold"]),
        "repro.seed": str(start["seed"]),
        _COLOR_TAG: parent.data.tags.get(_COLOR_TAG, _COLORS[0]),
    }
    # The table of runs cuts long names off at their end, and the entry stands in the row above.
    name = f"fold {start['fold']} seed {start['seed']} {description.entry}"
    return _create_run(store, name, tags, start["time"])


def _create_run(store: Store, name: str, tags: dict[str, str], start_time: float) -> Run:
    return store.client.create_run(store.experiment_id, start_time=_milliseconds(start_time), tags=tags, run_name=name)


def _find_runs(store: Store, tags: dict[str, str]) -> list[Run]:
    # The oldest comes first: should two processes have created the same run, both go on with that one.
    condition = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    return list(store.client.search_runs([store.experiment_id], condition, order_by=["attributes.start_time ASC"]))


def _add_missing(store: Store, run: Run, params: dict[str, Any], tags: dict[str, str], dataset: dict[str, str]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

    store.client.log_batch(
        run.info.run_id,
        params=[Param(key, str(value)) for key, value in params.items() if key not in run.data.params],
        # Commit and experiment are those of whoever told the run first: all of the tags are added, or none.
        tags=[] if tags.keys() & run.data.tags.keys() else [RunTag(key, value) for key, value in tags.items()],
    )
    if run.inputs is None or not run.inputs.dataset_inputs:
        digest = dataset["digest"][:_MAX_DATASET_DIGEST_LENGTH]
        source = json.dumps({"uri": dataset["source"]})
        context = [InputTag("mlflow.data.context", "training")]
        dataset_input = DatasetInput(Dataset(dataset["name"], digest, "local", source), context)
        store.client.log_inputs(run.info.run_id, [dataset_input])


def _add_epochs(store: Store, run: Run, epoch_events: Sequence[Event]) -> None:
    # Asking for the history of a key that the run does not have is an error on some servers.
    told: set[int] = set()
    if _EPOCH_KEY in run.data.metrics:
        told = {point.step for point in store.client.get_metric_history(run.info.run_id, _EPOCH_KEY)}
    pending: list[Metric] = []
    for event in epoch_events:
        if event["step"] in told:
            continue
        points = _points(event)
        # An epoch is never split over two calls: a call is all or nothing, so an epoch is too.
        if len(pending) + len(points) > _MAX_METRICS_A_CALL:
            store.client.log_batch(run.info.run_id, metrics=pending)
            pending = []
        pending += points
    store.client.log_batch(run.info.run_id, metrics=pending)


def _note_collapse(store: Store, run: Run, log: Sequence[Event]) -> None:
    """What was done about a collapse stands as the run's note."""
    notes = [event["message"] for event in log if event["kind"] == "collapse"]
    if notes and run.data.tags.get(_NOTE_TAG) != notes[-1]:
        store.client.set_tag(run.info.run_id, _NOTE_TAG, notes[-1])


def _points(event: Event) -> list[Metric]:
    from mlflow.entities import Metric

    values = dict(event["metrics"])
    if "seconds" in event:
        values["train/seconds"] = event["seconds"]
    values[_EPOCH_KEY] = event["epoch"]
    timestamp = _milliseconds(event["time"])
    return [Metric(_metric_key(key), float(value), timestamp, event["step"]) for key, value in values.items()]


def _status(log: Sequence[Event], is_live: bool) -> tuple[str, float]:
    marks = [event for event in log if event["kind"] in ("run_start", "run_end")]
    if marks and marks[-1]["kind"] == "run_end":
        return ("FINISHED" if marks[-1]["status"] == "finished" else "FAILED"), marks[-1]["time"]
    end_time = log[-1]["time"] if log else 0.0
    return ("RUNNING" if is_live else "KILLED"), end_time


def _common_status(statuses: Sequence[str]) -> str:
    return next((status for status in ("RUNNING", "FAILED", "KILLED") if status in statuses), "FINISHED")


def _set_status(store: Store, run: Run, status: str, end_time: float) -> None:
    if run.info.status == status:
        return
    if status == "RUNNING":
        store.client.update_run(run.info.run_id, status=status)
    else:
        store.client.set_terminated(run.info.run_id, status=status, end_time=_milliseconds(end_time))


def _metric_key(name: str) -> str:
    # MLflow's rule for names; class names come from users and may hold anything.
    return re.sub(r"[^\w\-. :/]", "_", name)


def _is_same(known: float | None, value: float) -> bool:
    return known is not None and (known == value or (math.isnan(known) and math.isnan(value)))


def _content_digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _milliseconds(time_s: float) -> int:
    return round(time_s * 1000)


def _checkout_of_copy(folder: Path) -> Path | None:
    # Queued experiments run in CHECKOUT/.dvc/tmp/exps/NAME.
    return next((path.parents[3] for path in (folder, *folder.parents) if path.parts[-4:-1] == _COPIES), None)


def _is_local_database(uri: str) -> bool:
    return uri.startswith(_SQLITE_PREFIX) and ":memory:" not in uri


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    # Processes that create the tables of one fresh database together break each other's migration.
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
