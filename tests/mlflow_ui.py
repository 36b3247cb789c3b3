"""MLflow's pages as `repro ui` serves them, and where to click in them (MLflow 3.17)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.tracking.provenance import ROOT
from tests.chromium import PATIENCE_S, Page


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run `repro ui` in a folder with a `params.yaml` and give the address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, log_path = f"http://127.0.0.1:{port}", folder / "ui.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "ui", "--port", str(port)],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        _wait_until_it_answers(address, process, log_path)
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server outlives `repro ui`"


def open_experiment(page: Page, address: str, experiment: str, run: str) -> None:
    """Go from the address that `repro ui` prints to the experiment, as a person does, and wait for a run's name."""
    page.open(address)
    page.click(link(experiment))
    page.wait_for(f"!!{link(run)}")


def open_run(page: Page, address: str, experiment_id: str, run_id: str, tab: str) -> None:
    """Go to a run's page, at one of its tabs."""
    page.open("about:blank")
    page.open(f"{address}/#/experiments/{experiment_id}/runs/{run_id}")
    page.click(_first("[role=tab]", tab))


def link(text: str) -> str:
    """The link with this text."""
    return _first("a", text)


def button(text: str) -> str:
    """The button with this text."""
    return _first("button", text)


def item(text: str) -> str:
    """The innermost thing with this text: an entry of a menu, a file in a list."""
    return f"([...document.querySelectorAll('body *')].filter(e => e.textContent.trim() == {json.dumps(text)}).at(-1))"


def expander(run: str) -> str:
    """What shows the child runs of a run in the table."""
    return f"({link(run)}.closest('[role=gridcell]').querySelector('button'))"


def child_names(page: Page) -> list[str]:
    """Names of the child runs that the table shows."""
    names = page.evaluate("[...document.querySelectorAll('[role=gridcell] a')].map(e => e.textContent)")
    return [name for name in names if name.startswith("fold ")]


def _first(selector: str, text: str) -> str:
    return f"([...document.querySelectorAll({selector!r})].find(e => e.textContent.trim() == {json.dumps(text)}))"


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with opener.open(f"{address}/health", timeout=PATIENCE_S):
                return
        except urllib.error.URLError:
            time.sleep(0.5)
    raise RuntimeError(f"`repro ui` does not answer at {address}: {log_path.read_text(errors='replace')[-3000:]}")
