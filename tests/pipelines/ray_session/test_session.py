from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from pipelines.ray_session import session
from pipelines.ray_session.session import (
    attached,
    is_on_cluster,
    local_head,
    num_gpus,
    num_local_cpus,
    num_local_gpus,
)

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("address", "expected"), [(None, False), ("", False), ("127.0.0.1:6379", True)])
def test_a_cluster_is_what_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, address: str | None, expected: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert is_on_cluster() is expected


def test_processors_are_those_this_process_may_use() -> None:
    script = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from pipelines.ray_session.session import num_local_cpus
print(num_local_cpus())
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "1"
    assert num_local_cpus() == len(os.sched_getaffinity(0))


def test_without_a_driver_there_is_no_accelerator_and_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(session, "Path", lambda _: Path("no driver here"))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert num_local_gpus() == num_gpus() == 0


@pytest.mark.parametrize("module", ["session", "map_cases", "head"])
def test_ray_is_imported_only_where_it_is_used(module: str) -> None:
    script = f"""
import sys, pipelines.ray_session.{module}
sys.exit(", ".join(name for name in ("ray", "torch", "numpy") if name in sys.modules) or 0)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("command", "code", "told"), [(["sh", "-c", "exit 3"], 3, ""), ([], 1, "no command given")])
def test_beside_a_cluster_the_head_only_runs_the_command(command: list[str], code: int, told: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pipelines.ray_session.head", *command],
        cwd=ROOT, env=dict(os.environ, RAY_ADDRESS="127.0.0.1:9"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == code
    assert told in ended.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "no-such-host.invalid:6379"])
def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError) as error, attached():
        pass
    assert str(error.value).startswith(f"RAY_ADDRESS={address}: no Ray cluster answers there (")
    assert str(error.value).endswith("start one (`ray start --head`) or unset RAY_ADDRESS to use this machine alone")


@pytest.mark.parametrize(("num_failures", "is_told"), [(1, False), (2, True)])
def test_a_machine_too_busy_for_ray_gets_a_second_try(
    monkeypatch: pytest.MonkeyPatch, num_failures: int, is_told: bool
) -> None:
    calls: list[str] = []

    class Context:
        address_info: ClassVar[dict[str, str]] = {"gcs_address": "here"}

    def init(**_: object) -> Context:
        calls.append("init")
        if len(calls) <= num_failures:
            raise Exception("The current node timed out during startup.")
        return Context()

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    if is_told:
        with pytest.raises(ValueError, match="did not start on this machine within 30 s, twice"), local_head():
            pass
    else:
        with local_head() as address:
            assert address == "here"
    assert len(calls) == 2
