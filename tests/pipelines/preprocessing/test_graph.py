from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.cases.graph import read_graph
from pipelines.preprocessing.graph import normalise, open_graph, prepare_graph
from tests.tiny_graph import DATASET, NUM_NODES, TinyGraphStudy

ROWS = np.array([0, 0, 2])


def test_the_features_of_a_node_add_up_to_one() -> None:
    values = normalise(ROWS, np.array([1, 3, 5], np.float32), 3, "row")
    assert values.tolist() == [0.25, 0.75, 1.0]
    assert values.dtype == np.float32


def test_none_changes_nothing() -> None:
    values = np.array([1, -1, 5], np.float32)
    assert normalise(ROWS, values, 3, "none") is values


def test_features_that_add_up_to_zero_are_told() -> None:
    with pytest.raises(ValueError, match="node 0: its features add up to 0"):
        normalise(ROWS, np.array([1, -1, 5], np.float32), 3, "row")


def test_an_unknown_scheme_is_told() -> None:
    with pytest.raises(ValueError, match="normalisation is 'rows'; it must be row or none"):
        normalise(ROWS, np.ones(3, np.float32), 3, "rows")


def test_the_prepared_graph_is_the_graph_with_other_values(tiny_graph_study: TinyGraphStudy) -> None:
    graph = read_graph(tiny_graph_study.folder("cases"))
    index = json.loads(tiny_graph_study.index_path("gcn_tiny").read_text(encoding="utf-8"))
    prepared = open_graph(tiny_graph_study.folder("prepared") / index["folder"] / index["cases"][0]["file"])
    for name in ("edges", "feature_rows", "feature_columns", "classes", "splits"):
        np.testing.assert_array_equal(getattr(prepared, name), getattr(graph, name), err_msg=name)
    sums = np.bincount(prepared.feature_rows, weights=prepared.feature_values, minlength=NUM_NODES)
    assert set(sums.round(6)) == {0.0, 1.0}
    assert prepared.feature_values.flags.writeable


def test_entries_that_ask_for_the_same_share_a_file(tiny_graph_study: TinyGraphStudy) -> None:
    paths = [tiny_graph_study.index_path(entry) for entry in ("gcn_tiny", "gat_tiny")]
    first, second = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    assert first.pop("entry") == "gcn_tiny"
    assert second.pop("entry") == "gat_tiny"
    assert first == second
    (case,) = first["cases"]
    assert (first["dataset"], case["case_id"], case["split"], case["fold"]) == (DATASET, DATASET, "train", 0)
    assert len(list(tiny_graph_study.folder("prepared").rglob("*.arrow"))) == 1


@pytest.mark.parametrize("name", ["edges", "feature_columns", "classes", "splits"])
def test_the_digest_is_of_everything_a_training_reads(
    tiny_graph_study: TinyGraphStudy, tmp_path: Path, name: str
) -> None:
    graph, plan = read_graph(tiny_graph_study.folder("cases")), tiny_graph_study.plan("gcn_tiny")

    def digest(folder: str, **changes: np.ndarray) -> str:
        prepare_graph(dataclasses.replace(graph, **changes), [plan], tmp_path / folder)
        index = json.loads((tmp_path / folder / "index" / "gcn_tiny.json").read_text(encoding="utf-8"))
        return str(index["cases"][0]["digest"])

    changed = getattr(graph, name).copy()
    changed[..., -1] = "rest" if name == "splits" else 0
    assert digest("same") == digest("again")
    assert digest("same") != digest("changed", **{name: changed})
