from __future__ import annotations

import os
import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_matrix, csr_matrix

from pipelines.cases.formats import planetoid
from pipelines.cases.formats.planetoid import file_names, load_restricted, names, read
from tests.tiny_graph import (
    DATASET,
    GAP,
    NUM_FEATURES,
    NUM_NODES,
    NUM_OTHERS,
    NUM_TRAINING,
    features_and_links,
    old_pickle,
    write_planetoid,
)

SHARED = Path(__file__).parents[4] / "../shared/data/planetoid/data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_planetoid(tmp_path_factory.mktemp("planetoid"))


def test_a_row_of_the_test_features_belongs_to_the_node_its_line_names(folder: Path) -> None:
    raw = read(folder, DATASET)
    x, _ = features_and_links()
    found = np.zeros_like(x)
    found[raw.feature_rows, raw.feature_columns] = raw.feature_values
    np.testing.assert_array_equal(found, x)
    known = np.arange(NUM_NODES) != GAP
    np.testing.assert_array_equal(raw.classes[known], (np.arange(NUM_NODES) % 3)[known])


def test_a_gap_in_the_test_numbers_is_a_node_without_class_and_split(folder: Path) -> None:
    raw = read(folder, DATASET)
    assert (raw.classes[GAP], raw.splits[GAP], len(raw.classes)) == (planetoid.UNKNOWN_CLASS, "rest", NUM_NODES)
    assert GAP not in raw.feature_rows


def test_the_split_is_by_place(folder: Path) -> None:
    splits = read(folder, DATASET).splits
    assert set(splits[:NUM_TRAINING]) == {"train"}
    assert set(splits[NUM_TRAINING : NUM_TRAINING + 500]) == {"validation"}
    assert set(splits[NUM_TRAINING + 500 : NUM_OTHERS]) == {"rest"}
    assert set(np.delete(splits[NUM_OTHERS:], GAP - NUM_OTHERS)) == {"test"}


def test_links_come_as_they_are_listed(folder: Path, tmp_path: Path) -> None:
    write_planetoid(tmp_path, graph={0: [1, 1, 0], 1: [0]})
    assert read(tmp_path, DATASET).links.tolist() == [[0, 1], [0, 1], [0, 0], [1, 0]]


def test_a_graph_is_there_when_all_its_files_are(tmp_path: Path) -> None:
    write_planetoid(tmp_path, "b")
    write_planetoid(tmp_path, "a")
    assert names(tmp_path) == ["a", "b"]
    (tmp_path / "ind.a.ally").unlink()
    assert names(tmp_path) == ["b"]
    assert file_names("a")[-1] == "ind.a.test.index"


@pytest.mark.parametrize("value", [{"a": [1, 2]}, defaultdict(list, {3: [4]}), np.eye(3), np.arange(3, dtype=np.int32)])
def test_what_a_graph_needs_is_let_through(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "file"
    for content in (old_pickle(value), pickle.dumps(value, protocol=3)):
        path.write_bytes(content)
        np.testing.assert_equal(load_restricted(path), value)


class Runs:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def evil(path: Path) -> list[Any]:
    command = f"touch {path}"
    return [
        Runs(os.system, command),
        Runs(eval, f"open({str(path)!r}, 'w')"),
        Runs(exec, f"open({str(path)!r}, 'w')"),
        Runs(open, str(path), "w"),
        {"a": [Runs(os.system, command)]},
        defaultdict(list, {0: [Runs(os.system, command)]}),
        np.array([Runs(os.system, command)], dtype=object),
        Runs(pickle.loads, pickle.dumps(Runs(os.system, command))),
        Runs(np.load, str(path)),
        coo_matrix(np.eye(2)),
        Path(),
    ]


@pytest.mark.parametrize("number", range(len(evil(Path()))))
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_names_anything_else_is_refused_and_runs_nothing(
    tmp_path: Path, number: int, protocol: int
) -> None:
    path, trace = tmp_path / "ind.evil.x", tmp_path / "trace"
    path.write_bytes(pickle.dumps(evil(trace)[number], protocol=protocol))
    with pytest.raises(ValueError, match=r"ind\.evil\.x: not a file of a Planetoid graph \(it names \w+\.\w+"):
        load_restricted(path)
    assert not trace.exists()


def test_a_pickle_that_reaches_into_a_module_by_a_dotted_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"cnumpy\nf2py.os.system\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"it names numpy\.f2py\.os\.system"):
        load_restricted(path)


@pytest.mark.parametrize("part", ["x", "ally", "graph"])
def test_an_evil_file_among_the_eight_is_refused(tmp_path: Path, part: str) -> None:
    trace = tmp_path / "trace"
    write_planetoid(tmp_path, **{part: pickle.dumps(Runs(os.system, f"touch {trace}"), protocol=2)})
    with pytest.raises(ValueError, match=rf"ind\.tiny\.{part}: not a file of a Planetoid graph"):
        read(tmp_path, DATASET)
    assert not trace.exists()


def test_no_object_of_scipy_is_made(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(old_pickle(csr_matrix(np.eye(2))))
    assert type(load_restricted(path)).__module__ == "pipelines.cases.formats.planetoid"


@pytest.mark.parametrize("num_bytes", [0, 1, 50])
def test_a_cut_file_is_told(tmp_path: Path, num_bytes: int) -> None:
    write_planetoid(tmp_path)
    path = tmp_path / "ind.tiny.allx"
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"allx: not a file of a Planetoid graph .* copy it again"):
        read(tmp_path, DATASET)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"x": np.eye(3)}, r"ind\.tiny\.x: holds a ndarray; it must be a sparse matrix"),
        ({"y": {}}, r"ind\.tiny\.y: holds a dict; it must be an array of one-hot classes"),
        ({"graph": [1]}, r"ind\.tiny\.graph: holds a list; it must be a dictionary"),
        ({"y": np.eye(3, dtype=np.int32)}, r"do not fit together \(rows: x 6, y 3"),
        ({"tx": csr_matrix(np.zeros((30, NUM_FEATURES + 1)))}, "do not fit together"),
        ({"ty": np.zeros((29, 3), np.int32)}, "do not fit together"),
        ({"allx": csr_matrix(np.zeros((505, NUM_FEATURES))), "ally": np.zeros((505, 3), np.int32)}, "do not fit"),
    ],
    ids=["x", "y", "graph", "classes of x", "features of tx", "classes of tx", "too few to validate"],
)
def test_files_that_do_not_fit_are_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    write_planetoid(tmp_path, **changes)
    with pytest.raises(ValueError, match=told):
        read(tmp_path, DATASET)


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/planetoid is not there")
@pytest.mark.parametrize(
    ("name", "num_nodes", "num_features", "num_values", "splits", "num_unknown"),
    [
        ("cora", 2708, 1433, 49_216, {"train": 140, "validation": 500, "test": 1000, "rest": 1068}, 0),
        ("citeseer", 3327, 3703, 105_165, {"train": 120, "validation": 500, "test": 1000, "rest": 1707}, 15),
    ],
)
def test_the_real_graphs_are_read(
    name: str, num_nodes: int, num_features: int, num_values: int, splits: dict[str, int], num_unknown: int
) -> None:
    raw = read(SHARED, name)
    assert (len(raw.classes), raw.num_features, len(raw.feature_values)) == (num_nodes, num_features, num_values)
    assert {split: int((raw.splits == split).sum()) for split in splits} == splits
    assert (raw.classes == planetoid.UNKNOWN_CLASS).sum() == num_unknown
    assert (raw.classes[raw.splits == "test"] >= 0).all()
