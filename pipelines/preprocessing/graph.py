"""A graph as networks see it, in one Arrow file with a row a node.

Columns: `class` (-1 where nobody knows), `split`, `neighbours` (numbers of nodes), `features` (numbers of the features
that are not 0), `values` (of those, normalised).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.atomic_files import atomic_path, write_text
from pipelines.cases.graph import Graph, as_lists, from_lists

if TYPE_CHECKING:
    from pipelines.planning.graph_plan import GraphPlan

NORMALISATIONS = ("row", "none")
_FILE = "graph.arrow"


@dataclass(frozen=True)
class PreparedGraph:
    """What a training reads; arrays as in `pipelines.cases.graph.Graph`."""

    edges: NDArray[np.int64]
    feature_rows: NDArray[np.int64]
    feature_columns: NDArray[np.int64]
    feature_values: NDArray[np.float32]
    classes: NDArray[np.int64]
    splits: NDArray[np.str_]


def normalise(rows: NDArray[np.int64], values: NDArray[np.float32], num_nodes: int, scheme: str) -> NDArray[np.float32]:
    """Feature values after normalisation.

    Args:
        rows: (V,) node of each value.
        values: (V,) float32.
        num_nodes: N.
        scheme: `row` divides by the sum over the node's features; `none` changes nothing.

    Raises:
        ValueError: an unknown scheme, or a node whose features add up to 0 though some are not 0.
    """
    if scheme not in NORMALISATIONS:
        raise ValueError(f"normalisation is {scheme!r}; it must be {' or '.join(NORMALISATIONS)}")
    if scheme == "none":
        return values
    sums = np.bincount(rows, weights=values, minlength=num_nodes)
    if (sums[rows] == 0).any():
        node = int(rows[sums[rows] == 0][0])
        raise ValueError(
            f"node {node}: its features add up to 0 and cannot be divided by that; set normalisation: none"
        )
    return (values / sums[rows]).astype(np.float32)


def prepare_graph(graph: Graph, plans: Sequence[GraphPlan], out_dir: Path) -> None:
    """Write the graph once for each distinct preprocessing among the plans, and each entry's index.

    `out_dir/index/<entry>.json` holds `dataset`, `entry`, `configuration`, `preprocessing_digest`, `folder` and
    `cases`: the graph itself as the one case, with `case_id`, `file` (name inside `folder`), `digest` (of the arrays),
    `patient`, `split`, `fold`, `has_label`.
    """
    digests: dict[str, str] = {}
    for plan in plans:
        preprocessing_digest = plan.preprocessing.digest()
        folder = f"{plan.preprocessing.configuration}-{preprocessing_digest[:8]}"
        if folder not in digests:
            scheme = plan.preprocessing.normalisation
            values = normalise(graph.feature_rows, graph.feature_values, graph.num_nodes, scheme)
            _write(out_dir / folder / _FILE, graph, values)
            digests[folder] = _digest(graph, values)
        record = {
            "case_id": plan.dataset,
            "file": _FILE,
            "digest": digests[folder],
            "patient": plan.dataset,
            "split": "train",
            "fold": 0,
            "has_label": True,
        }
        index = {
            "dataset": plan.dataset,
            "entry": plan.entry,
            "configuration": plan.preprocessing.configuration,
            "preprocessing_digest": preprocessing_digest,
            "folder": folder,
            "cases": [record],
        }
        write_text(out_dir / "index" / f"{plan.entry}.json", json.dumps(index, indent=2) + "\n")


def open_graph(path: Path) -> PreparedGraph:
    """Read a prepared graph."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
        targets, sources = from_lists(table["neighbours"])
        rows, columns = from_lists(table["features"])
        _, values = from_lists(table["values"])
        return PreparedGraph(
            edges=np.stack([sources, targets]),
            feature_rows=rows,
            feature_columns=columns,
            feature_values=values,
            classes=table["class"].to_numpy().copy(),
            splits=np.array(table["split"].to_pylist()),
        )


def _digest(graph: Graph, values: NDArray[np.float32]) -> str:
    """Sha256 of what a training reads."""
    total = hashlib.sha256()
    splits = "".join(f"{split} " for split in graph.splits.tolist()).encode()
    for array in (graph.edges, graph.feature_rows, graph.feature_columns, values, graph.classes):
        total.update(np.ascontiguousarray(array).tobytes())
    total.update(splits)
    return total.hexdigest()


def _write(path: Path, graph: Graph, values: NDArray[np.float32]) -> None:
    table = pa.table(
        {
            "class": graph.classes,
            "split": graph.splits.tolist(),
            "neighbours": as_lists(graph.edges[1], graph.edges[0], graph.num_nodes),
            "features": as_lists(graph.feature_rows, graph.feature_columns, graph.num_nodes),
            "values": as_lists(graph.feature_rows, values, graph.num_nodes),
        }
    )
    with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)
