"""Take the pictures of docs/how-to/mlflow.md anew, from the MLflow of this checkout after `make repro`.

    python -m tests.mlflow_screenshots quickstart nnunet_small curve_train_loss.png

It needs Chromium, and nothing else may show in the experiment than the study's newest runs.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image

from pipelines.tracking.mlflow_run import open_store, resolve_uri
from tests.chromium import Page, browse
from tests.mlflow_ui import button, expander, item, link, open_experiment, open_run, serving

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH, HEIGHT = 1280, 720
_PATH = "[...document.querySelectorAll('body *')].filter(e => e.textContent.startsWith('Path: ')).at(-1)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", help="name of the data set")
    parser.add_argument("entry", help="entry whose pages to show")
    parser.add_argument("picture", help="artefact to show")
    options = parser.parse_args()
    store = open_store(resolve_uri(None), options.experiment)
    runs = store.client.search_runs([store.experiment_id], f"tags.repro.entry = '{options.entry}'")
    parent = next(run.info.run_id for run in runs if run.data.tags["repro.kind"] == "entry")
    child = next(run.info for run in runs if run.data.tags.get("mlflow.parentRunId") == parent)
    with serving(Path.cwd()) as address, browse(WIDTH, HEIGHT) as page:
        open_experiment(page, address, options.experiment, options.entry)
        page.click(button("Columns"))
        for column in ("cv/dice", "test/dice", "Source", "Models", "Dataset"):
            page.click(item(column))
        page.click("h2")
        page.click(expander(options.entry))
        page.wait_for(f"!!{link(child.run_name)}")
        _take(page, "mlflow_runs.png")

        open_run(page, address, store.experiment_id, parent, "Overview")
        page.wait_for_text("cv/dice")
        _take(page, "mlflow_result.png")

        open_run(page, address, store.experiment_id, parent, "Artifacts")
        page.click(item(options.picture))
        page.wait_for("[...document.images].some(image => image.complete && image.naturalWidth > 200)")
        # Where the file is on this machine is nobody's business.
        page.evaluate(f"{_PATH}.style.visibility = 'hidden'")
        _take(page, "mlflow_picture.png")

        open_run(page, address, store.experiment_id, child.run_id, "Model metrics")
        page.wait_for("document.querySelectorAll('.js-plotly-plot .scatterlayer path').length > 3")
        _take(page, "mlflow_curves.png")


def _take(page: Page, name: str) -> None:
    # What shows on hovering shows always where there is no mouse, and the page has moved until a moment ago.
    page.evaluate("document.head.insertAdjacentHTML('beforeend', '<style>.modebar {display: none}</style>')")
    page.evaluate("new Promise(done => setTimeout(done, 3000))")
    path = page.screenshot(IMAGES / name)
    small = Image.open(io.BytesIO(path.read_bytes())).convert("RGB").quantize(128)
    small.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
