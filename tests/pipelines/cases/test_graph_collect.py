from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.cases.formats import planetoid
from pipelines.cases.formats.planetoid import RawGraph
from pipelines.cases.graph import read_graph
from pipelines.cases.graph_collect import check, collect_graph, tidy
from pipelines.cases.integrity import IntegrityError
from tests.tiny_graph import DATASET, GAP, NUM_OTHERS, write_planetoid

SHARED = Path(__file__).parents[3] / "../shared/data/planetoid/data"


def raw(**changes: Any) -> RawGraph:
    values = {
        "links": np.array([[0, 1], [1, 0], [0, 1], [2, 1], [3, 3]]),
        "feature_rows": np.array([2, 0, 1, 1]),
        "feature_columns": np.array([0, 2, 1, 0]),
        "feature_values": np.array([1.0, 2.0, 3.0, 0.0]),
        "num_features": 3,
        "classes": np.array([0, 1, 0, -1]),
        "splits": np.array(["train", "train", "test", "rest"]),
        "num_classes": 2,
    }
    return RawGraph(**values | changes)


def told(graph: RawGraph) -> dict[str, str]:
    return {finding.kind: f"{finding.severity}: {finding.message}; {finding.remedy}" for finding in check(graph)}


def test_every_link_stays_once_a_direction_and_loops_go() -> None:
    graph = tidy(raw(), "g")
    assert graph.edges.T.tolist() == [[1, 0], [0, 1], [2, 1], [1, 2]]
    assert graph.num_links == 2


def test_features_come_in_order_and_without_zeros() -> None:
    graph = tidy(raw(), "g")
    assert graph.feature_rows.tolist() == [0, 1, 2]
    assert graph.feature_columns.tolist() == [2, 1, 0]
    assert graph.feature_values.tolist() == [2, 3, 1]


def test_a_graph_without_links_stays_one() -> None:
    assert tidy(raw(links=np.zeros((0, 2), np.int64)), "g").edges.shape == (2, 0)


def test_the_description_counts() -> None:
    info = tidy(raw(), "g").info
    assert info.description == "4 nodes (2 train, 0 validation, 1 test, 1 rest), 2 links"
    assert info.labels == {"class_0": 0, "class_1": 1}


def test_what_is_odd_is_a_warning() -> None:
    assert told(raw()) == {
        "loop": "warning: 1 links lead from a node to itself; nothing to do: they are left out, networks add their own",
        "isolated": "warning: 1 nodes have no link, so that only their own features can tell; nothing to do, if they "
        "have none",
        "no-features": "warning: 1 nodes have no feature that is not 0, so that only their links can tell; nothing to "
        "do, if they have none",
    }


@pytest.mark.parametrize(
    ("changes", "kind", "count"),
    [
        ({"links": np.array([[0, 4], [-1, 0], [1, 2]])}, "link-outside", 2),
        ({"feature_values": np.array([1, np.nan, np.inf, 1])}, "feature-not-finite", 2),
        ({"feature_columns": np.array([3, -1, 0, 0])}, "feature-number", 2),
        ({"classes": np.array([0, 1, -1, -1])}, "class-unknown", 1),
        ({"classes": np.array([0, 0, 1, -1])}, "class-untrained", 1),
    ],
)
def test_what_no_study_can_use_is_an_error(changes: dict[str, Any], kind: str, count: int) -> None:
    findings = told(raw(**changes))
    assert findings[kind].startswith(f"error: {count} ")


def test_a_sound_graph_is_written(tmp_path: Path) -> None:
    write_planetoid(tmp_path / "data")
    collect_graph(str(tmp_path / "data"), DATASET, tmp_path / "out")
    graph = read_graph(tmp_path / "out")
    assert (graph.info.name, graph.num_nodes, graph.classes[GAP]) == (DATASET, 551, -1)
    report = json.loads((tmp_path / "out" / "integrity.json").read_text(encoding="utf-8"))
    assert report["num_cases"] == 551
    assert {(found["severity"], found["kind"]) for found in report["findings"]} == {
        ("warning", "isolated"),
        ("warning", "no-features"),
    }


def test_errors_stop_and_stand_in_the_report(tmp_path: Path) -> None:
    write_planetoid(tmp_path / "data", graph={0: [9999]})
    with pytest.raises(IntegrityError, match=r"1 links name nodes that are not among 0 to 550"):
        collect_graph(str(tmp_path / "data"), DATASET, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["integrity.json"]


def test_a_test_node_without_class_is_an_error(tmp_path: Path) -> None:
    classes = np.eye(3, dtype=np.int32)[np.arange(30) % 3]
    classes[4] = 0
    write_planetoid(tmp_path / "data", ty=classes)
    with pytest.raises(IntegrityError, match="1 nodes that train, validate or test have no class"):
        collect_graph(str(tmp_path / "data"), DATASET, tmp_path / "out")


def test_the_name_of_the_data_set_chooses_among_several_graphs(tmp_path: Path) -> None:
    write_planetoid(tmp_path / "data", "first")
    collect_graph(str(tmp_path / "data"), "anything", tmp_path / "one")
    write_planetoid(tmp_path / "data", "second", graph={NUM_OTHERS: [0]})
    collect_graph(str(tmp_path / "data"), "second", tmp_path / "two")
    assert read_graph(tmp_path / "two").num_links == 1
    with pytest.raises(ValueError, match=r"no graph called third: it has first, second; call the data set by one"):
        collect_graph(str(tmp_path / "data"), "third", tmp_path / "three")


def test_a_source_without_a_graph_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder; set `source` to a folder of Planetoid"):
        collect_graph("nowhere", DATASET, tmp_path)
    with pytest.raises(ValueError, match=r"it has none. A graph is the eight files ind.tiny.x, "):
        collect_graph(str(tmp_path), DATASET, tmp_path / "out")


def test_a_python_file_may_make_the_graph(tmp_path: Path) -> None:
    write_planetoid(tmp_path / "data")
    script = tmp_path / "source.py"
    script.write_text(f"from pathlib import Path\ndef make(folder): return Path({str(tmp_path / 'data')!r})\n")
    collect_graph(str(script), DATASET, tmp_path / "out")
    assert read_graph(tmp_path / "out").num_nodes == 551


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/planetoid is not there")
@pytest.mark.parametrize(
    ("name", "num_links", "kinds"),
    [("cora", 5278, set()), ("citeseer", 4552, {"loop", "isolated", "no-features"})],
)
def test_the_real_graphs_are_tidied(tmp_path: Path, name: str, num_links: int, kinds: set[str]) -> None:
    graph = planetoid.read(SHARED, name)
    assert {finding.kind for finding in check(graph)} == kinds
    assert tidy(graph, name).num_links == num_links
