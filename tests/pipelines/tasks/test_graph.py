from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.params import Entry
from pipelines.tasks import graph as task
from pipelines.training.folds import collect_models
from pipelines.training.single import run_training
from tests.tiny_graph import DATASET, TinyGraphStudy

ROOT = Path(__file__).parents[3]


def test_a_graph_is_not_cut_into_folds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split.num_folds is 5, but a graph .* set split.num_folds to 1"):
        task.collect("nowhere", DATASET, tmp_path, 5)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_carries_what_params_say(tiny_graph_study: TinyGraphStudy) -> None:
    plan = tiny_graph_study.plan("gat_tiny")
    assert (plan.dataset, plan.entry, plan.architecture, plan.variant) == (DATASET, "gat_tiny", "graph/gat", "tiny")
    assert (plan.budget["steps"], plan.budget["steps_per_epoch"], plan.seeds) == (12, 3, [0, 1])
    assert (plan.optimizer["name"], plan.optimizer["learning_rate"]) == ("adam", 0.05)
    assert plan.memory["memory_gib"] == 0.5


def test_planning_twice_gives_the_same(tiny_graph_study: TinyGraphStudy) -> None:
    folders = tiny_graph_study.folder("cases"), tiny_graph_study.folder("fingerprints")
    again = task.plan(tiny_graph_study.params, DATASET, "gcn_tiny", *folders, {})
    assert again == tiny_graph_study.plan("gcn_tiny")


def test_there_is_one_configuration(tiny_graph_study: TinyGraphStudy) -> None:
    assert task.CONFIGURATIONS == ("full_graph",)
    params = tiny_graph_study.params
    entry = dataclasses.replace(params.entries["gcn_tiny"], configuration="2d")
    params = dataclasses.replace(params, entries={"gcn_tiny": entry})
    folders = tiny_graph_study.folder("cases"), tiny_graph_study.folder("fingerprints")
    with pytest.raises(ValueError, match="unknown configuration '2d'; valid is full_graph"):
        task.plan(params, DATASET, "gcn_tiny", *folders, {})


def test_a_network_from_elsewhere_is_refused(tiny_graph_study: TinyGraphStudy) -> None:
    params = dataclasses.replace(tiny_graph_study.params, entries={"own": Entry(target="a.Net")})
    folders = tiny_graph_study.folder("cases"), tiny_graph_study.folder("fingerprints")
    with pytest.raises(ValueError, match=r"entry own has the target a\.Net, but .*set architecture instead"):
        task.plan(params, DATASET, "own", *folders, {})


@pytest.fixture(scope="module")
def results(tiny_graph_study: TinyGraphStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of an entry of two seeds."""
    folder = tmp_path_factory.mktemp("results")
    requests = tiny_graph_study.requests(folder, "gcn_tiny")
    for request in requests:
        run_training(request, num_threads=1, shows_progress=False)
    collect_models(requests, folder / "model")
    index_path = tiny_graph_study.index_path("gcn_tiny")
    task.evaluate(tiny_graph_study.folder("cases"), index_path, folder / "model", folder / "out", folder / "work")
    return folder / "out"


def test_every_seed_scores_every_held_out_node(results: Path) -> None:
    rows = pq.read_table(results / "cases.parquet").to_pylist()
    assert {(row["split"], row["seed"]) for row in rows} == {(s, n) for s in ("validation", "test") for n in (0, 1)}
    assert len(rows) == 2 * (500 + 30)
    metrics = json.loads((results / "metrics.json").read_text(encoding="utf-8"))
    test = [row["accuracy"] for row in rows if row["split"] == "test"]
    assert metrics["test"]["accuracy"] == pytest.approx(sum(test) / len(test))
    assert metrics["test"]["num_cases"] == 30


def test_predictions_say_a_class_and_a_probability_of_every_node(results: Path) -> None:
    rows = {row["case_id"]: row for row in pq.read_table(results / "predictions" / "seed1.parquet").to_pylist()}
    assert len(rows) == 551
    for row in rows.values():
        probabilities = {name: row[f"probability_{name}"] for name in ("class_0", "class_1", "class_2")}
        assert row["predicted"] == max(probabilities, key=lambda name: probabilities[name])
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)
    scored = [row for row in pq.read_table(results / "cases.parquet").to_pylist() if row["seed"] == 1]
    for row in scored:
        assert row["accuracy"] == (rows[row["case_id"]]["predicted"] == row["class_name"])


def test_the_data_set_is_told_in_facts_and_the_fingerprint_in_words(tiny_graph_study: TinyGraphStudy) -> None:
    facts = task.dataset_facts(tiny_graph_study.folder("cases"))
    assert (facts.name, list(facts.labels)) == (DATASET, ["class_0", "class_1", "class_2"])
    assert facts.facts[0] == "551 nodes (6 train, 500 validation, 30 test, 15 rest)"
    words = task.fingerprint_words(tiny_graph_study.folder("fingerprints"))
    assert words[0].startswith("The graph has 551 nodes")
    assert task.gallery([], tiny_graph_study.folder("cases"), Path()) == []


def test_importing_the_task_loads_nothing_heavy() -> None:
    heavy = ("torch", "scipy", "pandas", "numpy", "ray", "mlflow")
    script = f"import sys, pipelines.tasks.graph; sys.exit([n for n in {heavy!r} if n in sys.modules] or 0)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
