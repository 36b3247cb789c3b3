"""MLflow's own pages, opened for trainings instead of for language models.

MLflow 3.17 shows every experiment in the mode that the browser was in last, whatever the experiment is tagged with; a
browser that was never there starts in the mode for language models, where runs are filed under "Evaluation runs", and
with an assistant over a third of the window. Here the browser starts in the mode for trainings, without the assistant.
Both are one click away, and what a person has chosen stays.

MLflow finds `create_app` as its plug-in `repro` (entry point in `pyproject.toml`): `mlflow server --app-name repro`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

APP_NAME = "repro"

# Names under which the pages keep these in the browser's local storage, with values as JSON.
_FIRST_CHOICES = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    # `repro ui` reports no usage to anybody, so there is nothing to announce.
    "mlflow.settings.telemetry.enabled_v1": False,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
}


def create_app() -> FastAPI:
    """Give MLflow's server with the first choices in its page; everything else is as MLflow made it.

    It reads MLflow's environment variables when called, so only `mlflow server` should call it.
    """
    from mlflow.server import app as flask_app
    from mlflow.server.fastapi_app import app

    assert flask_app.static_folder is not None
    page = with_first_choices(Path(flask_app.static_folder, "index.html").read_text(encoding="utf-8"))
    flask_app.view_functions["serve"] = lambda: page
    return app


def with_first_choices(page: str) -> str:
    """Give the page with a script that runs before all others and chooses where nobody has chosen yet.

    Args:
        page: HTML with a `<head>`.
    """
    script = (
        f"for (const [name, value] of Object.entries({json.dumps(_FIRST_CHOICES)}))"
        " localStorage.getItem(name) ?? localStorage.setItem(name, JSON.stringify(value))"
    )
    return page.replace("<head>", f"<head><script>{script}</script>", 1)
