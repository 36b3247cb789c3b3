"""Tell MLflow the trials of a search, from the files that the stage `tune` wrote."""

from __future__ import annotations

from pathlib import Path

from pipelines.tracking.events import RunDescription, read_events
from pipelines.tracking.follow import reason_of, warn
from pipelines.tracking.mlflow_run import Store, TrialRun, open_store, resolve_uri, sync_trial_runs

_NO_SETTINGS = ("trial", "fold", "score", "epochs", "status", "seconds", "reason")


def sync_trials(store: Store, description: RunDescription, tuned_dir: Path) -> int:
    """Tell MLflow every trial of an entry: its settings, its curve, its score; what is told already is left alone.

    Args:
        store: where to.
        description: the training that the search was for.
        tuned_dir: `tuned/D/A`.

    Returns:
        How many trials there are.
    """
    import pyarrow.parquet as pq

    rows = pq.read_table(tuned_dir / "trials.parquet").to_pylist()
    trials = [
        TrialRun(
            name=row["trial"],
            fold=row["fold"],
            outcome=row["status"],
            params={key: value for key, value in row.items() if key not in _NO_SETTINGS and value is not None},
            score=row["score"],
            log=read_events(tuned_dir / "events" / f"{row['trial']}.jsonl"),
        )
        for row in rows
    ]
    if trials:
        sync_trial_runs(store, description, trials)
    return len(trials)


def tell_trials(description: RunDescription, tuned_dir: Path, tracking_uri: str | None) -> bool:
    """Do what `sync_trials` does, but print one line instead of raising when MLflow cannot be told.

    Args:
        description: the training that the search was for.
        tuned_dir: `tuned/D/A`.
        tracking_uri: address of MLflow as in `resolve_uri`; "none" does nothing.

    Returns:
        Whether MLflow was told.
    """
    uri = resolve_uri(tracking_uri)
    if uri is None:
        return False
    try:
        sync_trials(open_store(uri, description.experiment), description, tuned_dir)
    except Exception as error:
        # Whatever goes wrong between here and a server, the result on disk is right and stays.
        warn(uri, reason_of(error))
        return False
    return True
