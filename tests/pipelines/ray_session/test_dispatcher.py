"""Workers that `make repro` keeps for its stages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.ray_session.dispatcher import is_dispatched
from pipelines.ray_session.tasks import run_where_warm

ROOT = Path(__file__).parents[3]
_PATIENCE_SECONDS = 60.0

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a stage of `make repro` finds in its environment."""
    told = tmp_path_factory.mktemp("head") / "environment"
    tell = f"import os, json, sys; open({str(told)!r}, 'w').write(json.dumps(dict(os.environ))); sys.stdin.read()"
    program = subprocess.Popen(
        [sys.executable, "-m", "pipelines.ray_session.head", sys.executable, "-c", tell],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE,
    )  # fmt: skip
    assert program.stdin
    _wait_until(lambda: told.exists() and told.read_text().endswith("}"))
    yield json.loads(told.read_text())
    program.stdin.close()
    assert program.wait(_PATIENCE_SECONDS) == 0


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _stage(work: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.pipelines.ray_session.stage_program", work, str(folder)],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _started(folder: Path) -> list[int]:
    paths = sorted(folder.glob("started*"))
    return [int(path.read_text()) for path in paths if path.stat().st_size]


def test_a_second_stage_gets_the_workers_of_the_first(environment: dict[str, str], tmp_path: Path) -> None:
    processes = []
    for _ in range(2):
        output, errors = _stage("tell", tmp_path, environment).communicate(timeout=_PATIENCE_SECONDS)
        assert output, errors
        processes.append(output)
        time.sleep(3.0)  # by itself, Ray would end idle workers by now
    assert processes[0] == processes[1]


def test_an_error_of_a_task_comes_out_as_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    stage = _stage("refuse", tmp_path, environment)
    _, errors = stage.communicate(timeout=_PATIENCE_SECONDS)
    assert stage.returncode == 1
    assert "damaged; repair it" in errors
    assert "Traceback" not in errors


def test_tasks_that_need_more_memory_than_there_is_run_one_after_the_other(
    environment: dict[str, str], tmp_path: Path
) -> None:
    output, errors = _stage("occupy", tmp_path, environment).communicate(timeout=_PATIENCE_SECONDS)
    assert output == "apart\n", errors


def test_an_interrupted_stage_lets_its_tasks_save(environment: dict[str, str], tmp_path: Path) -> None:
    stage = _stage("wait", tmp_path, environment)
    _wait_until(lambda: len(_started(tmp_path)) == 2)
    stage.send_signal(signal.SIGINT)
    _, errors = stage.communicate(timeout=_PATIENCE_SECONDS)
    assert stage.returncode == 130
    assert errors.splitlines()[-1] == "interrupted: nothing is lost; run the same command again to go on"
    _wait_until(lambda: len(list(tmp_path.glob("saved*"))) == 2)


def test_tasks_of_a_killed_stage_end(environment: dict[str, str], tmp_path: Path) -> None:
    stage = _stage("wait", tmp_path, environment)
    _wait_until(lambda: len(_started(tmp_path)) == 2)
    workers = _started(tmp_path)
    stage.kill()
    stage.communicate(timeout=_PATIENCE_SECONDS)
    _wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    time.sleep(2.0)
    assert _started(tmp_path) == workers, "a killed task was started again"


def test_without_kept_workers_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPRO_DISPATCHER", raising=False)
    assert run_where_warm(os.getpid) == os.getpid()


def test_an_experiment_in_a_copy_of_the_checkout_does_not_run_in_kept_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REPRO_DISPATCHER", str(ROOT))
    assert is_dispatched()
    monkeypatch.setenv("REPRO_DISPATCHER", str(tmp_path))
    assert not is_dispatched()
    assert run_where_warm(os.getpid) == os.getpid()
