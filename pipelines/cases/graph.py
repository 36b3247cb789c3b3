"""A graph whose nodes are to be classed, and its file: one row a node.

Columns of the Parquet file: `case_id` ("node_0017"), `class_name` (null where nobody knows it), `split`, `neighbours`
(numbers of nodes, ascending), `features` (numbers of the features that are not 0, ascending), `values` (of those).

Splits: "train" (the class may be learned from), "validation" (it chooses between epochs and settings), "test" (it is
what is scored), "rest" (only the node's features and links count).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.atomic_files import atomic_path, write_text

SPLITS = ("train", "validation", "test", "rest")
UNKNOWN_CLASS = -1

_SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("class_name", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("neighbours", pa.list_(pa.int64()), nullable=False),
        pa.field("features", pa.list_(pa.int64()), nullable=False),
        pa.field("values", pa.list_(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True)
class GraphInfo:
    """What a graph is about.

    Attributes:
        name: of the data set.
        labels: class name to value, from 0 without a gap.
        num_features: of a node.
        description: free text.
    """

    name: str
    labels: dict[str, int]
    num_features: int
    description: str = ""


@dataclass(frozen=True)
class Graph:
    """A graph without direction, without loops, each link once a direction.

    Attributes:
        info: see there.
        edges: (2, E) int64, source above target, ordered by target, then source; each link in both directions.
        feature_rows: (V,) int64, node of each feature that is not 0, ascending.
        feature_columns: (V,) int64, its number, ascending within a node.
        feature_values: (V,) float32.
        classes: (N,) int64, `UNKNOWN_CLASS` where nobody knows.
        splits: (N,) text, of `SPLITS`.
    """

    info: GraphInfo
    edges: NDArray[np.int64]
    feature_rows: NDArray[np.int64]
    feature_columns: NDArray[np.int64]
    feature_values: NDArray[np.float32]
    classes: NDArray[np.int64]
    splits: NDArray[np.str_]

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.classes)

    @property
    def num_links(self) -> int:
        """Undirected links."""
        return self.edges.shape[1] // 2

    def case_ids(self) -> list[str]:
        """Name of every node: its number, with as many digits as the largest needs."""
        digits = len(str(self.num_nodes - 1))
        return [f"node_{number:0{digits}d}" for number in range(self.num_nodes)]

    def class_names(self) -> list[str | None]:
        """Name of every node's class, None where nobody knows."""
        names: dict[int, str] = {value: name for name, value in self.info.labels.items()}
        return [names.get(value) for value in self.classes.tolist()]

    def nodes_of(self, *splits: str) -> NDArray[np.int64]:
        """Numbers of the nodes of these splits, ascending."""
        return np.flatnonzero(np.isin(self.splits, splits))


def write_graph(folder: Path, graph: Graph) -> None:
    """Write `cases.parquet` and `dataset.json` (keys of `GraphInfo`) to `folder`."""
    columns = {
        "case_id": graph.case_ids(),
        "class_name": graph.class_names(),
        "split": graph.splits.tolist(),
        "neighbours": as_lists(graph.edges[1], graph.edges[0], graph.num_nodes),
        "features": as_lists(graph.feature_rows, graph.feature_columns, graph.num_nodes),
        "values": as_lists(graph.feature_rows, graph.feature_values, graph.num_nodes),
    }
    with atomic_path(folder / "cases.parquet") as temporary:
        pq.write_table(pa.Table.from_pydict(columns, schema=_SCHEMA), temporary)
    write_text(folder / "dataset.json", json.dumps(asdict(graph.info), indent=2) + "\n")


def read_graph(folder: Path) -> Graph:
    """Read what `write_graph` wrote."""
    info = GraphInfo(**json.loads((folder / "dataset.json").read_text(encoding="utf-8")))
    table = pq.read_table(folder / "cases.parquet", schema=_SCHEMA)
    targets, sources = from_lists(table["neighbours"])
    rows, columns = from_lists(table["features"])
    names = table["class_name"].to_pylist()
    return Graph(
        info=info,
        edges=np.stack([sources, targets]),
        feature_rows=rows,
        feature_columns=columns,
        feature_values=from_lists(table["values"])[1].astype(np.float32),
        classes=np.array([UNKNOWN_CLASS if name is None else info.labels[name] for name in names], np.int64),
        splits=np.array(table["split"].to_pylist()),
    )


def as_lists(rows: NDArray[np.int64], values: NDArray[Any], num_rows: int) -> pa.ListArray:
    """Values, ordered by row, as one list a row."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_rows))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))


def from_lists(lists: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Inverse of `as_lists`: (row of each value, the values)."""
    array = lists.combine_chunks()
    counts = np.diff(array.offsets.to_numpy())
    # Copied, because Arrow's own memory may not be written to, which torch wants.
    return np.repeat(np.arange(len(counts)), counts), array.flatten().to_numpy().copy()
