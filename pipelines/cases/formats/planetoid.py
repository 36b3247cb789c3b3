"""Graphs as Planetoid has them (Yang, Cohen and Salakhutdinov, 2016): eight files `ind.NAME.*` a graph.

    x, tx, allx    features of the training nodes, the test nodes, and all but the test nodes (sparse matrices)
    y, ty, ally    their classes, one-hot
    graph          node -> list of neighbours
    test.index     number of each row of tx, one a line

The nodes of allx are 0, 1, 2, ...; the first of them are those of x. The rows of tx are not in the order of their
numbers, and between the numbers there may be gaps (Citeseer): nodes without features, class or row. Lists of neighbours
name a link twice or more, and some nodes themselves.

The split is the one of the papers that use these graphs: the nodes of x train, the next 500 validate, tx is the test.

The files are pickles of Python 2. Reading a pickle can run any code, so only what these files need is let through, and
matrices become plain values, not objects of SciPy.
"""

from __future__ import annotations

import io
import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cases.graph import UNKNOWN_CLASS

_PARTS = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
NUM_VALIDATION_NODES = 500


@dataclass(frozen=True)
class RawGraph:
    """A graph as its files have it.

    Attributes:
        links: (L, 2) as listed: with repeats, loops, and in one direction or both.
        feature_rows: (V,) node of each feature that is not 0.
        feature_columns: (V,) its number.
        feature_values: (V,).
        num_features: of a node.
        classes: (N,), `UNKNOWN_CLASS` where nobody knows.
        splits: (N,) text, see `pipelines.cases.graph`.
        num_classes: that the files name.
    """

    links: NDArray[np.int64]
    feature_rows: NDArray[np.int64]
    feature_columns: NDArray[np.int64]
    feature_values: NDArray[np.float64]
    num_features: int
    classes: NDArray[np.int64]
    splits: NDArray[np.str_]
    num_classes: int


def file_names(name: str) -> list[str]:
    """Names of the eight files of a graph."""
    return [f"ind.{name}.{part}" for part in _PARTS]


def names(folder: Path) -> list[str]:
    """Graphs that a folder has all files of, sorted."""
    found = sorted({path.name.split(".")[1] for path in folder.glob("ind.*.x")})
    return [name for name in found if all((folder / file).is_file() for file in file_names(name))]


def read(folder: Path, name: str) -> RawGraph:
    """Read the graph `name` of a folder.

    Raises:
        ValueError: a file is damaged, holds what no such file needs, or does not fit the others.
    """
    x, tx, allx = (_matrix(folder / f"ind.{name}.{part}") for part in ("x", "tx", "allx"))
    y, ty, ally = (_one_hot(folder / f"ind.{name}.{part}") for part in ("y", "ty", "ally"))
    test_path = folder / f"ind.{name}.test.index"
    test_nodes = np.array([int(line) for line in test_path.read_text(encoding="ascii").split()], np.int64)
    num_training, num_others = x.num_rows, allx.num_rows
    fits = (
        (len(y), len(ally), len(ty)) == (num_training, num_others, tx.num_rows)
        and len(np.unique(test_nodes)) == len(test_nodes) == tx.num_rows
        and len(test_nodes) > 0
        and test_nodes.min() >= num_others
        and num_training + NUM_VALIDATION_NODES <= num_others
        and len({x.num_columns, tx.num_columns, allx.num_columns}) == 1
        and len({y.shape[1], ty.shape[1], ally.shape[1]}) == 1
    )
    if not fits:
        raise ValueError(
            f"{folder}: the files ind.{name}.* do not fit together (rows: x {num_training}, y {len(y)}, tx "
            f"{tx.num_rows}, ty {len(ty)}, allx {num_others}, ally {len(ally)}, test.index {len(test_nodes)}); they "
            "are of different graphs or cut short: copy all eight again"
        )
    num_nodes = int(test_nodes.max()) + 1
    classes = np.full(num_nodes, UNKNOWN_CLASS, np.int64)
    classes[:num_others] = _class_of(ally)
    classes[test_nodes] = _class_of(ty)
    splits = np.full(num_nodes, "rest", dtype="<U10")
    splits[:num_training] = "train"
    splits[num_training : num_training + NUM_VALIDATION_NODES] = "validation"
    splits[test_nodes] = "test"
    return RawGraph(
        links=_links(folder / f"ind.{name}.graph"),
        # A row of tx belongs to the node that the same line of test.index names.
        feature_rows=np.concatenate([allx.rows, test_nodes[tx.rows]]),
        feature_columns=np.concatenate([allx.columns, tx.columns]),
        feature_values=np.concatenate([allx.values, tx.values]),
        num_features=allx.num_columns,
        classes=classes,
        splits=splits,
        num_classes=y.shape[1],
    )


class _Matrix:
    """Stands in for SciPy's compressed sparse rows: takes the values of the pickle, runs nothing."""

    num_rows: int
    num_columns: int
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float64]

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.num_rows, self.num_columns = (int(side) for side in state["_shape"])
        counts = np.diff(state["indptr"])
        if len(counts) != self.num_rows or counts.sum() != len(state["indices"]):
            raise ValueError("a sparse matrix whose parts do not fit")
        self.rows = np.repeat(np.arange(self.num_rows), counts)
        self.columns = np.asarray(state["indices"], np.int64)
        self.values = np.asarray(state["data"], np.float64)


def _dtype(name: str, *_: int) -> np.dtype[Any]:
    # The pickles also say how to align and copy, by numbers that NumPy no longer takes.
    return np.dtype(name)


# The function that arrays are pickled by, whatever NumPy calls its module.
_reconstruct = np.empty(0).__reduce__()[0]

# Everything a pickle may name, under the module names of its time and of today.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("scipy.sparse.csr", "csr_matrix"): _Matrix,
    ("scipy.sparse._csr", "csr_matrix"): _Matrix,
    ("collections", "defaultdict"): defaultdict,
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no file of a graph needs and may run code")
        return _ALLOWED[module, name]


def load_restricted(path: Path) -> Any:
    """Read a pickle that may hold arrays, sparse matrices, dictionaries and lists, and nothing else.

    Raises:
        ValueError: it names anything else, or is damaged.
    """
    try:
        # Text of Python 2 is bytes; latin1 keeps each of them.
        return _RestrictedUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path}: not a file of a Planetoid graph ({' '.join(str(error).split())}); copy it again from where it "
            "came, and do not open it with plain pickle"
        ) from error


def _matrix(path: Path) -> _Matrix:
    matrix = load_restricted(path)
    if not isinstance(matrix, _Matrix):
        raise ValueError(f"{path}: holds a {type(matrix).__name__}; it must be a sparse matrix of features")
    return matrix


def _one_hot(path: Path) -> NDArray[np.int64]:
    array = load_restricted(path)
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        raise ValueError(f"{path}: holds a {type(array).__name__}; it must be an array of one-hot classes")
    return array.astype(np.int64)


def _class_of(one_hot: NDArray[np.int64]) -> NDArray[np.int64]:
    """Class of each row; a row of zeros has none."""
    return np.where(one_hot.any(axis=1), one_hot.argmax(axis=1), UNKNOWN_CLASS)


def _links(path: Path) -> NDArray[np.int64]:
    graph = load_restricted(path)
    if not isinstance(graph, dict):
        raise ValueError(f"{path}: holds a {type(graph).__name__}; it must be a dictionary of neighbours")
    listed: list[Sequence[int]] = [(node, other) for node, neighbours in graph.items() for other in neighbours]
    return np.array(listed, np.int64).reshape(-1, 2)
