from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from pipelines.cases.formats import planetoid
from pipelines.cases.graph import Graph, read_graph
from pipelines.cases.graph_collect import tidy
from pipelines.evaluation.feature_classifier import feature_classifier_rows, features, fit, predict
from tests.tiny_graph import TinyGraphStudy

SHARED = Path(__file__).parents[3] / "../shared/data/planetoid/data"


def accuracy(graph: Graph, split: str) -> float:
    rows = feature_classifier_rows(graph)
    return float(np.mean([row["accuracy"] for row in rows if row["split"] == split]))


@pytest.fixture
def graph(tiny_graph_study: TinyGraphStudy) -> Graph:
    return read_graph(tiny_graph_study.folder("cases"))


def test_it_finds_the_feature_that_tells_the_class(graph: Graph) -> None:
    assert accuracy(graph, "test") > 0.9


def test_links_and_the_classes_of_test_nodes_do_not_reach_it(graph: Graph) -> None:
    classes = graph.classes.copy()
    classes[graph.nodes_of("test")] = 0
    other = dataclasses.replace(graph, edges=graph.edges[:, :2], classes=classes)
    expected = {
        row["case_id"]: row["accuracy"] for row in feature_classifier_rows(graph) if row["class_name"] == "class_0"
    }
    found = {row["case_id"]: row["accuracy"] for row in feature_classifier_rows(other)}
    assert expected
    assert all(found[case] == value for case, value in expected.items())


def test_rows_are_of_no_seed(graph: Graph) -> None:
    rows = feature_classifier_rows(graph)
    assert {row["seed"] for row in rows} == {None}
    assert {row["split"] for row in rows} == {"validation", "test"}


def test_features_add_up_to_one_and_end_with_a_one(graph: Graph) -> None:
    x = features(graph)
    assert set(x[:, :-1].sum(axis=1).round(6)) == {0.0, 1.0}
    assert (x[:, -1] == 1).all()


def test_the_weights_are_where_the_loss_is_flat() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(30, 3)), np.ones((30, 1))], axis=1)
    classes = rng.integers(0, 3, 30)
    weights = fit(x, classes, 3, penalty=0.1)
    logits = x @ weights
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    penalised = weights.copy()
    penalised[-1] = 0
    gradient = x.T @ (probabilities - np.eye(3)[classes]) / 30 + 0.1 * penalised
    assert np.abs(gradient).max() < 1e-4


def test_the_likeliest_class_is_said() -> None:
    assert predict(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 1.0], [2.0, 1.0]])).tolist() == [1, 0]


@pytest.mark.shared_data
@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/planetoid is not there")
def test_words_alone_tell_three_of_five_topics_of_cora() -> None:
    assert 0.55 < accuracy(tidy(planetoid.read(SHARED, "cora"), "cora"), "test") < 0.65
