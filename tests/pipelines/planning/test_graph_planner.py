from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.cases.graph import Graph, read_graph
from pipelines.fingerprint.graph import GraphFingerprint, read_fingerprint
from pipelines.params import Budget, Training
from pipelines.planning.graph_plan import GraphPlan, read_graph_plan
from pipelines.planning.graph_planner import plan_graph_entry
from pipelines.planning.sizing import MemoryBudgetError
from repro_models.registry import UnknownArchitectureError
from tests.tiny_graph import TinyGraphStudy

Data = tuple[Graph, GraphFingerprint]


@pytest.fixture(scope="module")
def data(tiny_graph_study: TinyGraphStudy) -> Data:
    fingerprint = read_fingerprint(tiny_graph_study.folder("fingerprints") / "fingerprint.json")
    return read_graph(tiny_graph_study.folder("cases")), fingerprint


def planned(data: Data, **changes: Any) -> GraphPlan:
    arguments: dict[str, Any] = {
        "dataset": "tiny",
        "entry": "e",
        "architecture": "graph/gcn",
        "variant": None,
        "configuration": None,
        "overrides": {},
        "graph": data[0],
        "fingerprint": data[1],
        "memory_gib": 1.0,
        "sources": {"a.py": "00"},
        "training": dataclasses.asdict(Training(recipe="paper")),
        "budget": dataclasses.asdict(Budget(kind="minutes", steps=7, steps_per_epoch=5, early_stop_epochs=3)),
        "seeds": [3, 4],
    }
    return plan_graph_entry(**arguments | changes)


def test_gcn_is_trained_as_its_paper_says(data: Data) -> None:
    plan = planned(data)
    assert plan.optimizer["name"] == "adam"
    assert (plan.optimizer["learning_rate"], plan.optimizer["weight_decay"]) == (0.01, 5e-4)
    assert plan.optimizer["decayed"] == ["layers.0.weight"]
    assert (plan.schedule["name"], plan.clip_norm, plan.keeps_best) == ("constant", None, False)
    assert plan.budget == {
        "kind": "steps",
        "steps": 200,
        "minutes": 60.0,
        "steps_per_epoch": 1,
        "early_stop_epochs": 10,
        "early_stop_rule": "mean_loss",
    }


def test_gat_is_trained_as_its_paper_says(data: Data) -> None:
    plan = planned(data, architecture="graph/gat")
    assert (plan.optimizer["learning_rate"], plan.optimizer["weight_decay"]) == (0.005, 5e-4)
    assert (plan.budget["early_stop_rule"], plan.budget["early_stop_epochs"]) == ("score_and_loss", 100)
    assert plan.keeps_best


def test_the_house_trains_by_the_study(data: Data) -> None:
    plan = planned(data, training=dataclasses.asdict(Training()))
    assert (plan.optimizer["name"], plan.optimizer["learning_rate"], plan.clip_norm) == ("sgd", 0.01, 12.0)
    assert (plan.budget["kind"], plan.budget["steps_per_epoch"]) == ("minutes", 5)
    assert (plan.budget["early_stop_rule"], plan.keeps_best, plan.recipe) == ("score", True, "house")


def test_overrides_come_after_the_recipe(data: Data) -> None:
    overrides = {"learning_rate": 0.1, "network": {"hidden_features": 3}, "optimizer": {"decayed": ["*"]}}
    plan = planned(data, overrides=overrides)
    assert (plan.optimizer["learning_rate"], plan.optimizer["decayed"]) == (0.1, ["*"])
    assert (plan.network["hidden_features"], plan.overrides) == (3, overrides)
    assert "override learning_rate: 0.1" in plan.reasons


def test_the_problem_is_the_graph(data: Data) -> None:
    plan = planned(data, variant="tiny")
    assert plan.problem == {"num_features": 9, "num_classes": 3}
    assert plan.labels == {"class_0": 0, "class_1": 1, "class_2": 2}
    assert (plan.configuration, plan.batch_size, plan.num_folds, plan.folds) == ("full_graph", 1, 1, [0])
    assert (plan.seeds, plan.sources, plan.network["hidden_features"]) == ([3, 4], {"a.py": "00"}, 4)


@pytest.mark.parametrize(("smallest", "scheme"), [(0.0, "row"), (-1.0, "none")])
def test_features_are_divided_by_their_sum_unless_some_are_negative(data: Data, smallest: float, scheme: str) -> None:
    fingerprint = dataclasses.replace(data[1], smallest_value=smallest)
    assert planned(data, fingerprint=fingerprint).preprocessing.normalisation == scheme


@pytest.mark.parametrize(
    ("homophily", "told"), [(0.9, "what neighbours say helps"), (0.2, "may do worse than the features alone")]
)
def test_a_reason_says_whether_neighbours_are_alike(data: Data, homophily: float, told: str) -> None:
    fingerprint = dataclasses.replace(data[1], homophily=homophily)
    assert any(told in reason for reason in planned(data, fingerprint=fingerprint).reasons)


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"architecture": "graph/gnc"}, UnknownArchitectureError, "did you mean graph/gcn"),
        ({"variant": "large"}, ValueError, "unknown variant of graph/gcn 'large'; valid are "),
        ({"configuration": "2d"}, ValueError, "unknown configuration '2d'; valid is full_graph"),
        ({"overrides": {"patch_size": [1]}}, ValueError, "unknown override of a graph's entry 'patch_size'; valid are"),
        ({"overrides": {"learning_rate": -1}}, ValueError, "override learning_rate is -1; it must be a number above 0"),
        ({"overrides": {"network": {"heads": 1}}}, ValueError, "unknown override network 'heads'"),
        ({"memory_gib": 1e-6}, MemoryBudgetError, "budget.memory_gib is 1e-06; raise it to"),
    ],
)
def test_a_wrong_entry_is_told(data: Data, changes: dict[str, Any], kind: type[ValueError], told: str) -> None:
    with pytest.raises(kind) as error:
        planned(data, **changes)
    assert told in str(error.value)


def test_an_architecture_without_a_recipe_is_told(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("repro_models.graph.gcn.RECIPE")
    with pytest.raises(ValueError, match=r"training.recipe is paper, but graph/gcn has no RECIPE"):
        planned(data)


def test_a_plan_comes_back_from_its_file(data: Data, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(planned(data).to_json(), encoding="utf-8")
    assert read_graph_plan(path) == planned(data)
    path.write_text(json.dumps({"dataset": "tiny"}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"plan\.json: not a plan of this version .* run the plan stage again"):
        read_graph_plan(path)
