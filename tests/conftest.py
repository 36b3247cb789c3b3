from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.tiny_graph import TinyGraphStudy
    from tests.tiny_plan import TinyStudy


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """Cases, plans and prepared files of a tiny study; read only."""
    from tests.tiny_plan import make_tiny_study, one_after_the_other

    with pytest.MonkeyPatch.context() as patch:
        one_after_the_other(patch)
        return make_tiny_study(tmp_path_factory.mktemp("tiny_study"))


@pytest.fixture(scope="session")
def tiny_graph_study(tmp_path_factory: pytest.TempPathFactory) -> TinyGraphStudy:
    """Cases, plans and prepared files of a tiny study of a graph; read only."""
    from tests.tiny_graph import make_tiny_graph_study

    return make_tiny_graph_study(tmp_path_factory.mktemp("tiny_graph_study"))


# Before torch is imported: the processes of `pytest --numprocesses` have a core each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# A shell without job control starts what runs in the background deaf to Ctrl-C, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# CI has everything a test may want but a GPU: there, any other skip is a test that did not run.
FORBIDS_SKIPS = bool(os.environ.get("REPRO_FORBID_SKIPS"))
skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what was skipped without the marker `gpu`."""
    if report.skipped and "gpu" not in report.keywords:
        skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for them where skips are forbidden."""
    if FORBIDS_SKIPS and skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name them."""
    if FORBIDS_SKIPS and skipped:
        terminalreporter.section("skipped, which REPRO_FORBID_SKIPS forbids")
        terminalreporter.write("\n".join(skipped) + "\n")
