"""The process beside a training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.tracking import follow
from pipelines.tracking.events import EventLog, RunDescription
from pipelines.tracking.follow import following, tell_results
from pipelines.tracking.mlflow_run import open_store

# MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

DATASET = {"name": "cohort", "digest": "d", "source": "data/cohort"}
DESCRIPTION = RunDescription("cohort", "unet", "0123456789", DATASET)
# Nothing listens on the discard port.
UNREACHABLE = "http://somebody:secret@127.0.0.1:9"


def _wait_until(is_true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = is_true()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError("it did not become true in five minutes")


@pytest.mark.slow
def test_a_growing_file_is_told_live_and_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = open_store(uri, "cohort")
    capsys.readouterr()
    log = EventLog(tmp_path / "events/fold0_seed0.jsonl")

    def losses() -> list[float]:
        runs = store.client.search_runs([store.experiment_id], "tags.`repro.kind` = 'training'")
        history = store.client.get_metric_history(runs[0].info.run_id, "train/loss") if runs else []
        return [point.value for point in history]

    with following(DESCRIPTION, [log.path], uri, work_dir=tmp_path / "work", patience_s=300):
        log.append("run_start", fold=0, seed=0, params={})
        log.append("epoch", step=1, epoch=0, metrics={"train/loss": 3.0})
        _wait_until(lambda: losses() == [3.0])
        log.append("epoch", step=2, epoch=1, metrics={"train/loss": 2.0})
        _wait_until(lambda: losses() == [3.0, 2.0])
        log.append("epoch", step=3, epoch=2, metrics={"train/loss": 1.0})
        log.append("run_end", status="finished", seconds=1.0)
    assert losses() == [3.0, 2.0, 1.0]
    runs = store.client.search_runs([store.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert capsys.readouterr().err == ""
    store.client._tracking_client.store._dispose_engine()


@pytest.mark.slow
def test_an_unreachable_server_costs_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with following(DESCRIPTION, [tmp_path / "a.jsonl"], UNREACHABLE, work_dir=tmp_path, patience_s=300):
        pass
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("MLflow at http://127.0.0.1:9 could not be told (MlflowException: ")
    assert line.endswith("); training is not affected, run `repro sync` later")
    assert "secret" not in line


@pytest.mark.slow
def test_an_error_in_the_block_comes_out_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        following(DESCRIPTION, [tmp_path / "a.jsonl"], UNREACHABLE, work_dir=tmp_path, patience_s=300),
    ):
        raise ZeroDivisionError
    assert capsys.readouterr().err.count("\n") == 1


def test_a_process_that_takes_too_long_is_left_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE)
    monkeypatch.setattr(follow, "_start", lambda *_: process)
    with following(DESCRIPTION, [], "http://a", work_dir=tmp_path, patience_s=0.1):
        pass
    assert "MLflow at http://a could not be told (still busy after 0.1 s)" in capsys.readouterr().err
    assert process.poll() is None
    process.kill()
    process.wait()


def test_a_process_that_cannot_start_costs_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with following(DESCRIPTION, [], "http://a", work_dir=tmp_path / "file"):
        pass
    assert capsys.readouterr().err.count("\n") == 1


def test_none_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    work_dir = tmp_path / "work"
    with following(DESCRIPTION, [], None, work_dir=work_dir):
        assert not work_dir.exists()
    assert tell_results(DESCRIPTION, {}, [], "", None) is False


@pytest.mark.slow
def test_the_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from pipelines.tracking.follow import following
from pipelines.tracking.events import RunDescription
description = RunDescription.from_json({DESCRIPTION.to_json()!r})
with following(description, [Path("events.jsonl")], {UNREACHABLE!r}, work_dir=Path({str(tmp_path)!r})):
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    child = int(_wait_until(lambda: children.read_text().strip()))
    # Once it has tried, it is in its loop.
    _wait_until(lambda: "MlflowException" in (tmp_path / "cohort-unet-01234567.log").read_text())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()

    def is_gone() -> bool:
        try:
            return "State:\tZ" in Path(f"/proc/{child}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True

    _wait_until(is_gone)


def test_mlflow_is_imported_only_where_it_is_told() -> None:
    script = "import sys, pipelines.tracking.follow; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_results_that_cannot_be_told_cost_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell_results(DESCRIPTION, {"test/dice": 1.0}, [], "", UNREACHABLE) is False
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "repro sync" in line]
    assert "http://127.0.0.1:9" in line
    assert "secret" not in line
