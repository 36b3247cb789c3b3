"""What a person finds in MLflow's pages, in a browser; `repro ui` serves two entries of two folds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.tracking.events import EventLog, RunDescription
from pipelines.tracking.mlflow_pages import with_first_choices
from pipelines.tracking.mlflow_run import open_store, sync_results, sync_training
from tests.chromium import Page, browse
from tests.mlflow_ui import child_names, expander, item, link, open_experiment, open_run, serving
from tests.tiny_plan import PARAMS

# MLflow 3.17 uses a loader strategy that SQLAlchemy 2.1 is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

LOSSES = [1.25, 0.75, 0.5]
DICE = {"unet": 0.8125, "slim_unet": 0.75}
PICTURE_SIZE = (48, 32)
# It asks for the user where there are no accounts, and its charts are laid out anew while they grow.
MLFLOWS_OWN_ERRORS = ("users/current", "ResizeObserver loop")


@dataclass(frozen=True)
class Served:
    """Address of the pages and what is where in them."""

    address: str
    experiment_id: str
    parent_id: str
    child_id: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("study")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"tracking": {"uri": uri}}), encoding="utf-8")
    picture = folder / "curve_train_loss.png"
    Image.fromarray(np.full(PICTURE_SIZE[::-1], 128, np.uint8)).save(picture)
    store = open_store(uri, "cohort")
    parents = {}
    for entry, dice in DICE.items():
        dataset = {"name": "cohort", "digest": "f" * 64, "source": "data/cohort"}
        description = RunDescription("cohort", entry, f"digest of {entry}", dataset, {"architecture": "unet_3d"})
        logs = [_events(folder / entry / f"fold{fold}.jsonl", fold) for fold in (0, 1)]
        parents[entry] = sync_training(store, description, logs)
        note = f"**{entry}** has a mean Dice of {dice}."
        sync_results(store, description, {"cv/dice": dice, "cv/dice_left": dice}, [picture], note)
    (child,) = store.client.search_runs(
        [store.experiment_id], f"tags.mlflow.parentRunId = '{parents['unet']}' and tags.repro.fold = '1'"
    )
    store.client._tracking_client.store._dispose_engine()
    with serving(folder) as address:
        yield Served(address, store.experiment_id, parents["unet"], child.info.run_id)


def _events(path: Path, fold: int) -> Path:
    log = EventLog(path)
    log.append("run_start", dataset="cohort", entry="unet", fold=fold, seed=0, digest="d")
    for epoch, loss in enumerate(LOSSES):
        metrics = {"train/loss": loss, "val/loss": loss / 2, "val/dice_left": 1 - loss / 2}
        log.append("epoch", step=10 * (epoch + 1), epoch=epoch, metrics=metrics, seconds=0.5 * epoch)
    log.append("run_end", status="finished", seconds=2.0)
    return path


@pytest.fixture(scope="module")
def window() -> Iterator[Page]:
    with browse(1400, 900) as page:
        yield page


@pytest.fixture
def page(window: Page, served: Served) -> Iterator[Page]:
    yield window
    assert [error for error in window.errors if not any(known in error for known in MLFLOWS_OWN_ERRORS)] == []
    own = (served.address, "data:", "blob:", "about:")
    assert [address for address in window.addresses if not address.startswith(own)] == []


@pytest.mark.slow
def test_the_experiment_opens_for_trainings_with_a_row_an_entry(page: Page, served: Served) -> None:
    open_experiment(page, served.address, "cohort", "unet")
    assert page.evaluate(f"!!{link('slim_unet')}")
    assert child_names(page) == []
    text = page.evaluate("document.body.innerText")
    for foreign in ("Evaluation runs", "Ask questions", "collects usage data"):
        assert foreign not in text
    colors = page.evaluate("[...document.querySelectorAll('[role=gridcell] input[type=color]')].map(e => e.value)")
    assert sorted(colors) == ["#0072b2", "#e69f00"]


@pytest.mark.slow
def test_an_entry_unfolds_into_its_folds(page: Page, served: Served) -> None:
    open_experiment(page, served.address, "cohort", "unet")
    page.click(expander("unet"))
    page.wait_for("[...document.querySelectorAll('[role=gridcell] a')].length > 3")
    assert sorted(child_names(page)) == ["fold 0 seed 0 unet", "fold 1 seed 0 unet"]
    page.click(link("fold 1 seed 0 unet"))
    page.wait_for(f"location.href.endsWith('/runs/{served.child_id}')")


@pytest.mark.slow
def test_an_entry_says_its_result_in_words_and_figures(page: Page, served: Served) -> None:
    open_run(page, served.address, served.experiment_id, served.parent_id, "Overview")
    page.wait_for_text("unet has a mean Dice of 0.8125.")
    assert page.evaluate("[...document.querySelectorAll('strong')].map(e => e.textContent)") == ["unet"]
    page.wait_for_text("Metrics (2)")
    for expected in ("cv/dice_left", "architecture", "fold 0 seed 0 unet", "cohort (ffff"):
        page.wait_for_text(expected)


@pytest.mark.slow
def test_an_entry_has_its_pictures(page: Page, served: Served) -> None:
    open_run(page, served.address, served.experiment_id, served.parent_id, "Artifacts")
    page.click(item("curve_train_loss.png"))
    width, height = PICTURE_SIZE
    page.wait_for(f"[...document.images].some(i => i.naturalWidth == {width} && i.naturalHeight == {height})")


@pytest.mark.slow
def test_a_fold_has_its_curves_in_groups(page: Page, served: Served) -> None:
    open_run(page, served.address, served.experiment_id, served.child_id, "Model metrics")
    plots = "[...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data)"
    points = f"{plots}.map(trace => JSON.stringify([[...trace.x], [...trace.y]]))"
    curve = json.dumps([[10, 20, 30], LOSSES], separators=(",", ":"))
    page.wait_for(f"{points}.includes('{curve}')")
    sections = page.evaluate("document.body.innerText.match(/(train|val)\\s+\\(\\d+\\)/g)")
    assert [section.split() for section in sections] == [["train", "(3)"], ["val", "(2)"]]


@pytest.mark.slow
def test_who_prefers_another_view_keeps_it(served: Served) -> None:
    with browse() as page:
        page.open(served.address)
        page.evaluate("localStorage.setItem('mlflow.workflowType_v1', '\"genai\"')")
        page.open("about:blank")
        page.open(f"{served.address}/#/experiments/{served.experiment_id}")
        page.wait_for_text("Evaluation runs")


def test_the_choices_are_made_before_any_other_script() -> None:
    page = with_first_choices('<html><head><script src="main.js"></script></head></html>')
    assert page.startswith("<html><head><script>for")
    assert page.endswith('</script><script src="main.js"></script></head></html>')
