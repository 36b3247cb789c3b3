"""Tell MLflow about a training while it runs, from a process beside it.

MLflow is slow to import and may hang, fail or be absent; in its own process, at low priority, none of that reaches the
training. The process reads the event files every few seconds. It stops when its standard input closes, which also
happens when whoever started it is killed.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.atomic_files import write_text
from pipelines.tracking.events import RunDescription
from pipelines.tracking.mlflow_run import Store, open_store, resolve_uri, sync_results, sync_training

POLL_INTERVAL_S = 3.0
RETRY_INTERVAL_S = 60.0

# Python warns about a process that is forgotten while it runs; these were left on purpose.
_left_running: list[subprocess.Popen[bytes]] = []


@contextmanager
def following(
    description: RunDescription,
    event_paths: Sequence[Path],
    tracking_uri: str | None,
    *,
    work_dir: Path = Path("work/tracking"),
    patience_s: float = 60.0,
) -> Iterator[None]:
    """Tell MLflow what is appended to the event files while the block runs; never raises for MLflow's sake.

    When MLflow could not be told in the end, one line on standard error says so.

    Args:
        description: The training.
        event_paths: One file a fold and seed, all that there will be; they need not exist yet.
        tracking_uri: Address of MLflow as in `resolve_uri`; "none" does nothing.
        work_dir: Folder for the log of the process.
        patience_s: How long to wait at the end until everything is told; then the process is left to itself.
    """
    uri = resolve_uri(tracking_uri)
    if uri is None:
        yield
        return
    log_path = work_dir / f"{description.experiment}-{description.entry}-{description.digest[:8]}.log"
    process = None
    try:
        process = _start(description, event_paths, uri, log_path)
    except OSError as error:
        warn(uri, f"{type(error).__name__}: {error}")
    try:
        yield
    finally:
        if process is not None:
            _stop(process, uri, log_path, patience_s)


def tell_results(
    description: RunDescription,
    metrics: dict[str, float],
    artifacts: Sequence[Path],
    note: str,
    tracking_uri: str | None,
) -> bool:
    """Do what `sync_results` does, but print one line instead of raising when MLflow cannot be told.

    Args:
        description: The training that the results are of.
        metrics: As in `sync_results`.
        artifacts: As in `sync_results`.
        note: As in `sync_results`.
        tracking_uri: Address of MLflow as in `resolve_uri`; "none" does nothing.

    Returns:
        Whether MLflow was told.
    """
    uri = resolve_uri(tracking_uri)
    if uri is None:
        return False
    try:
        sync_results(open_store(uri, description.experiment), description, metrics, artifacts, note)
    except Exception as error:
        # Whatever goes wrong between here and a server, the result on disk is right and stays.
        warn(uri, reason_of(error))
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Follow the event files named on the command line until standard input closes.

    Returns:
        Exit status: 0 when MLflow was told everything, else 1; the last line of standard error then says why.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--tracking-uri", help="address of MLflow; default $MLFLOW_TRACKING_URI or a file here")
    parser.add_argument("--run-json", type=Path, required=True, help="file with the description of the training")
    parser.add_argument("events", type=Path, nargs="+", help="event files, one a fold and seed")
    options = parser.parse_args(arguments)
    os.nice(19)  # lower still than Ray's own workers, which run at 15
    description = RunDescription.from_json(options.run_json.read_text(encoding="utf-8"))
    return 0 if _follow(description, options.events, options.tracking_uri) else 1


def _follow(description: RunDescription, event_paths: Sequence[Path], tracking_uri: str | None) -> bool:
    parent_id = os.getppid()
    store: Store | None = None
    told_sizes: list[int] | None = None
    interval_s, has_failed, is_over = 0.0, False, False
    while not is_over:
        readable, _, _ = select.select([sys.stdin], [], [], interval_s)
        # A worker forked by a killed parent can keep our standard input open.
        is_over = bool(readable) or os.getppid() != parent_id
        interval_s = POLL_INTERVAL_S
        sizes = [path.stat().st_size if path.exists() else 0 for path in event_paths]
        if sizes == told_sizes and not is_over:
            continue
        try:
            store = store or open_store(tracking_uri, description.experiment)
            sync_training(store, description, event_paths, is_live=not is_over)
            told_sizes, has_failed = sizes, False
        except Exception as error:
            # A server may come back; until then the files keep everything.
            print(reason_of(error), file=sys.stderr, flush=True)
            interval_s, has_failed = RETRY_INTERVAL_S, True
    return not has_failed


def _start(
    description: RunDescription, event_paths: Sequence[Path], uri: str, log_path: Path
) -> subprocess.Popen[bytes]:
    run_json = log_path.with_suffix(".json")
    write_text(run_json, description.to_json())
    # The address goes by the environment, because it may hold a password and everyone can read command lines.
    source_dir = str(Path(__file__).parents[2])
    python_path = os.pathsep.join(filter(None, [source_dir, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": python_path}
    command = [sys.executable, "-m", "pipelines.tracking.follow", "--run-json", str(run_json), *map(str, event_paths)]
    with log_path.open("wb") as log:
        # In a session of its own an interrupt from the keyboard does not end it before it told the last epochs.
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _stop(process: subprocess.Popen[bytes], uri: str, log_path: Path, patience_s: float) -> None:
    try:
        # Closing alone is not enough: a worker that was forked inside the block holds other copies of this end.
        process.communicate(b"\n", timeout=patience_s)
    except subprocess.TimeoutExpired:
        _left_running.append(process)
        warn(uri, f"still busy after {patience_s:g} s")
        return
    if process.returncode != 0:
        lines = log_path.read_text(encoding="utf-8", errors="replace").split("\n")
        warn(uri, next((line for line in reversed(lines) if line.strip()), f"exit status {process.returncode}"))


def reason_of(error: Exception) -> str:
    """What an error says, on one line that is not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def warn(uri: str, reason: str) -> None:
    """Say on standard error that MLflow could not be told, without the password an address may hold."""
    line = f"MLflow at {uri} could not be told ({reason}); training is not affected, run `repro sync` later"
    print(re.sub(r"//[^/@\s]+@", "//", line), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
