from __future__ import annotations

import numpy as np

from pipelines.cases.graph import Graph, GraphInfo
from pipelines.evaluation.node_scores import node_metrics, node_rows

GRAPH = Graph(
    info=GraphInfo("g", {"a": 0, "b": 1}, num_features=1),
    edges=np.zeros((2, 0), np.int64),
    feature_rows=np.zeros(0, np.int64),
    feature_columns=np.zeros(0, np.int64),
    feature_values=np.zeros(0, np.float32),
    classes=np.array([0, 0, 1, 1, 0, -1]),
    splits=np.array(["train", "validation", "test", "test", "test", "rest"]),
)


def test_validation_and_test_nodes_have_a_row_each() -> None:
    rows = node_rows(GRAPH, np.array([1, 0, 1, 0, 0, 0]), seed=7)
    assert [(row["case_id"], row["split"], row["class_name"], row["accuracy"]) for row in rows] == [
        ("node_1", "validation", "a", 1.0),
        ("node_2", "test", "b", 1.0),
        ("node_3", "test", "b", 0.0),
        ("node_4", "test", "a", 1.0),
    ]
    assert {(row["patient"] == row["case_id"], row["fold"], row["seed"]) for row in rows} == {(True, 0, 7)}


def test_metrics_are_means_over_nodes_and_trainings() -> None:
    rows = node_rows(GRAPH, np.array([0, 0, 1, 0, 0, 0]), 0) + node_rows(GRAPH, np.array([0, 1, 1, 1, 1, 0]), 1)
    assert node_metrics(rows) == {
        "validation": {"accuracy": 0.5, "num_cases": 1, "accuracy_a": 0.5},
        "test": {"accuracy": 4 / 6, "num_cases": 3, "accuracy_a": 0.5, "accuracy_b": 0.75},
    }
