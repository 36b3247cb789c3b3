from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipelines.cases.graph import Graph, GraphInfo, read_graph, write_graph
from tests.tiny_graph import TinyGraphStudy

# 0 - 1, 1 - 2; node 3 alone, without features and class.
GRAPH = Graph(
    info=GraphInfo("g", {"a": 0, "b": 1}, num_features=5, description="four nodes"),
    edges=np.array([[1, 0, 2, 1], [0, 1, 1, 2]]),
    feature_rows=np.array([0, 0, 1, 2]),
    feature_columns=np.array([1, 4, 0, 2]),
    feature_values=np.array([1, 0.5, 2, 3], np.float32),
    classes=np.array([0, 1, 1, -1]),
    splits=np.array(["train", "validation", "test", "rest"]),
)


def assert_equal(left: Graph, right: Graph) -> None:
    for field in dataclasses.fields(Graph):
        np.testing.assert_equal(getattr(left, field.name), getattr(right, field.name), err_msg=field.name)


def test_a_graph_comes_back_from_its_files(tmp_path: Path) -> None:
    write_graph(tmp_path, GRAPH)
    assert_equal(read_graph(tmp_path), GRAPH)


def test_a_row_of_the_file_is_a_node_that_a_person_can_read(tmp_path: Path) -> None:
    write_graph(tmp_path, GRAPH)
    rows = pq.read_table(tmp_path / "cases.parquet").to_pylist()
    assert rows[1] == {
        "case_id": "node_1",
        "class_name": "b",
        "split": "validation",
        "neighbours": [0, 2],
        "features": [0],
        "values": [2.0],
    }
    assert (rows[3]["class_name"], rows[3]["neighbours"], rows[3]["features"]) == (None, [], [])


def test_names_have_as_many_digits_as_the_largest_number(tiny_graph_study: TinyGraphStudy) -> None:
    ids = read_graph(tiny_graph_study.folder("cases")).case_ids()
    assert (ids[0], ids[-1]) == ("node_000", "node_550")


def test_nodes_and_links_are_counted() -> None:
    assert (GRAPH.num_nodes, GRAPH.num_links) == (4, 2)
    assert GRAPH.nodes_of("train", "test").tolist() == [0, 2]
