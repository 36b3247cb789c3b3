from __future__ import annotations

import contextlib
import functools
import operator
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines.ray_session.map_cases import each_case, map_cases
from tests.pipelines.ray_session.slow_items import after, has_imported, note, refuse_three, threads_and_folder

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("pipelines.ray_session.map_cases.num_local_cpus", lambda: 2)


def test_results_keep_the_order_of_the_items() -> None:
    # The first item takes longest.
    results = map_cases(after, [0.3, 0.0, 0.1, 0.0], "wait")
    assert [seconds for seconds, _ in results] == [0.3, 0.0, 0.1, 0.0]
    assert os.getpid() not in [pid for _, pid in results]
    assert map_cases(functools.partial(operator.mul, 3), range(7), "multiply") == [0, 3, 6, 9, 12, 15, 18]


@pytest.mark.parametrize(
    ("num_items", "num_cpus", "num_gpus"), [(1, 2, 0), (3, 1, 0), (3, 2, 1)], ids=["item", "processor", "accelerator"]
)
def test_with_one_of_anything_the_work_is_done_here(
    monkeypatch: pytest.MonkeyPatch, num_items: int, num_cpus: int, num_gpus: int
) -> None:
    monkeypatch.setattr("pipelines.ray_session.map_cases.num_local_cpus", lambda: num_cpus)
    assert map_cases(after, [0.0] * num_items, "wait", num_gpus=num_gpus) == [(0.0, os.getpid())] * num_items


def test_one_item_is_done_here_even_beside_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert map_cases(after, [0.0], "wait") == [(0.0, os.getpid())]


def test_no_items_give_no_results() -> None:
    assert map_cases(after, [], "wait") == []


@pytest.mark.parametrize("num_cpus", [1, 2])
def test_an_error_comes_out_as_it_is(monkeypatch: pytest.MonkeyPatch, num_cpus: int) -> None:
    monkeypatch.setattr("pipelines.ray_session.map_cases.num_local_cpus", lambda: num_cpus)
    with pytest.raises(ValueError, match="case 3: damaged; repair it"):
        map_cases(refuse_three, range(6), "refuse")


def test_a_process_of_the_pool_computes_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert map_cases(threads_and_folder, range(2), "look") == [("1", str(Path.cwd()))] * 2
    assert os.environ["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    map_cases(threads_and_folder, range(2), "look")
    assert "OMP_NUM_THREADS" not in os.environ


def test_results_come_one_by_one_and_no_process_runs_far_ahead(tmp_path: Path) -> None:
    finished = each_case(functools.partial(note, str(tmp_path)), range(20), "note")
    numbers = [next(finished)]
    # Whatever was handed out is done by now.
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 2 * 2 + 1
    numbers += finished
    assert sorted(numbers) == [(number, number) for number in range(20)]


def test_a_process_of_the_pool_has_the_named_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    unusual = "wave"
    monkeypatch.delitem(sys.modules, unusual, raising=False)
    assert map_cases(has_imported, [unusual] * 2, "look") == [False, False]
    assert map_cases(has_imported, [unusual] * 2, "look", imports=[unusual, "no_such_module"]) == [True, True]


@pytest.mark.parametrize(
    ("needs", "num_processes"), [([], 2), ([30, 30, 30], 2), ([70, 5, 5], 2), ([70, 20, 5], 1), ([200] * 3, 1)]
)
def test_no_more_processes_start_than_fit_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], needs: list[int], num_processes: int
) -> None:
    gib = 2**30
    monkeypatch.setattr("pipelines.ray_session.map_cases.free_bytes", lambda: 100 * gib)
    results = map_cases(after, [0.3] * 3, "prepare", memory_bytes=[need * gib for need in needs])
    processes = {pid for _, pid in results}
    assert len(processes) == num_processes
    assert os.getpid() not in processes
    line = f"prepare: 1 of 2 processes, because one takes up to {max(needs, default=0)}.0 GiB and 100.0 GiB are free\n"
    assert (line in capsys.readouterr().err) == (num_processes == 1)


def test_no_process_is_left_over() -> None:
    for _ in each_case(after, [0.0] * 4, "wait"):
        assert map_cases(operator.neg, range(3), "negate") == [0, -1, -2]
    with pytest.raises(ValueError, match="case 3"):
        map_cases(refuse_three, range(6), "refuse")
    commands = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text().rsplit(")", 1)[1].split()[1] == str(os.getpid()):
                commands.append(path.with_name("cmdline").read_text())
    assert not [command for command in commands if "forkserver" in command]


def test_the_bar_tells_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    map_cases(operator.neg, range(3), "negate", unit="number")
    assert "negate: 100%" in capsys.readouterr().err


def test_ctrl_c_while_the_pool_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = []
    submit = ProcessPoolExecutor.submit

    def interrupted_submit(self: ProcessPoolExecutor, *arguments: Any) -> Any:
        if not pools:
            pools.append(self)
            os.kill(os.getpid(), signal.SIGINT)
        return submit(self, *arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted_submit)
    with pytest.raises(KeyboardInterrupt):
        map_cases(after, [60.0] * 4, "wait")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_ends_all_processes_with_one_line(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.pipelines.ray_session.slow_items", str(tmp_path)],
        cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    num_workers = min(len(os.sched_getaffinity(0)), 6)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < num_workers:
        assert program.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = [int(path.read_text()) for path in tmp_path.iterdir()]
    # As a terminal does: to the whole group.
    os.killpg(program.pid, signal.SIGINT)
    output, told = program.communicate(timeout=60)
    assert program.returncode == 130
    assert output == ""
    assert "Traceback" not in told
    assert "leaked" not in told
    assert told.splitlines()[-1] == "interrupted: nothing is lost; run the same command again to go on"
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
