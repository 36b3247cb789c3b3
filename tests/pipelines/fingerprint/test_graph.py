from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cases.graph import Graph, GraphInfo
from pipelines.fingerprint.graph import read_fingerprint, sentences, take_fingerprint, write_fingerprint

# A path 0 - 1 - 2 - 3 - 4, node 5 alone; 0 trains, 1 and 2 validate, 3 tests.
GRAPH = Graph(
    info=GraphInfo("g", {"a": 0, "b": 1}, num_features=4),
    edges=np.array([[1, 0, 2, 1, 3, 2, 4, 3], [0, 1, 1, 2, 2, 3, 3, 4]]),
    feature_rows=np.array([0, 0, 1, 3]),
    feature_columns=np.array([0, 1, 2, 3]),
    feature_values=np.array([1, 2, 3, 4], np.float32),
    classes=np.array([0, 0, 1, 1, -1, -1]),
    splits=np.array(["train", "validation", "validation", "test", "rest", "rest"]),
)


def test_nodes_links_and_features_are_counted() -> None:
    fingerprint = take_fingerprint(GRAPH)
    assert (fingerprint.num_nodes, fingerprint.num_links, fingerprint.num_features) == (6, 4, 4)
    assert fingerprint.num_nodes_of_split == {"train": 1, "validation": 2, "test": 1, "rest": 2}
    assert fingerprint.degrees == {"min": 0, "q25": 1, "median": 1.5, "q75": 2, "max": 2}
    assert fingerprint.features_per_node == {"min": 0, "q25": 0, "median": 0.5, "q75": 1, "max": 2}
    assert fingerprint.num_isolated == 1
    assert fingerprint.class_counts == {"a": 1, "b": 0}


def test_each_link_reaches_one_node_further() -> None:
    assert take_fingerprint(GRAPH).reach == [1, 2, 3, 4]


def test_homophily_is_of_links_between_nodes_whose_class_may_be_seen() -> None:
    fingerprint = take_fingerprint(GRAPH)
    # 0 - 1 joins one class, 1 - 2 two; 2 - 3 would tell the class of a test node.
    assert (fingerprint.homophily, fingerprint.num_homophily_links) == (0.5, 2)
    unlinked = dataclasses.replace(GRAPH, splits=np.array(["train", "test", "test", "test", "rest", "rest"]))
    assert take_fingerprint(unlinked).homophily is None
    assert len(sentences(take_fingerprint(unlinked))) == len(sentences(fingerprint)) - 1


@pytest.mark.parametrize("changed_class", [0, 1])
def test_the_classes_of_test_nodes_change_nothing(changed_class: int) -> None:
    classes = np.array([0, 0, 1, changed_class, changed_class, -1])
    assert take_fingerprint(dataclasses.replace(GRAPH, classes=classes)) == take_fingerprint(GRAPH)


@pytest.mark.parametrize(("value", "smallest"), [(4.0, 0.0), (-4.0, -4.0)])
def test_the_smallest_feature_counts_the_zeros(value: float, smallest: float) -> None:
    values = np.array([1, 2, 3, value], np.float32)
    assert take_fingerprint(dataclasses.replace(GRAPH, feature_values=values)).smallest_value == smallest


def test_it_comes_back_from_its_file_and_has_a_row_a_node(tmp_path: Path) -> None:
    fingerprint = take_fingerprint(GRAPH)
    write_fingerprint(tmp_path, fingerprint, GRAPH)
    assert read_fingerprint(tmp_path / "fingerprint.json") == fingerprint
    rows = pq.read_table(tmp_path / "fingerprint.parquet").to_pylist()
    assert rows[1] == {"case_id": "node_1", "split": "validation", "degree": 2, "num_features": 1}


def test_the_words_tell_the_figures() -> None:
    told = " ".join(sentences(take_fingerprint(GRAPH)))
    assert "6 nodes and 4 links" in told
    assert "Training nodes of each class: a 1, b 0." in told
    assert "50% of the 2 links between training and validation nodes" in told
