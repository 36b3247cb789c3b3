"""Scores of nodes: whether the class said is the right one, a row a node and training, and their Parquet file.

case_id, patient (the same: a node stands for itself), class_name (the node's own class)
split      "validation" (these nodes chose between epochs) or "test"
fold       0, the data set's own split
seed       of the training; null for what has none
accuracy   1 where the class is right, else 0
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.atomic_files import atomic_path, write_text
from pipelines.cases.graph import Graph, read_graph

SCORED_SPLITS = ("validation", "test")

_SCHEMA = pa.schema(
    [
        pa.field("case_id", pa.string(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("fold", pa.int64()),
        pa.field("seed", pa.int64()),
        pa.field("accuracy", pa.float64(), nullable=False),
    ]
)


def node_rows(graph: Graph, predicted: NDArray[np.int64], seed: int | None) -> list[dict[str, Any]]:
    """Score rows of the validation and test nodes.

    Args:
        graph: with the classes.
        predicted: (N,) class of every node.
        seed: of the training.
    """
    names, ids = graph.class_names(), graph.case_ids()
    is_right = predicted == graph.classes
    return [
        {
            "case_id": ids[node],
            "patient": ids[node],
            "class_name": names[node],
            "split": split,
            "fold": 0,
            "seed": seed,
            "accuracy": float(is_right[node]),
        }
        for split in SCORED_SPLITS
        for node in graph.nodes_of(split).tolist()
    ]


def node_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per split: `accuracy`, `num_cases` (nodes), and `accuracy_CLASS`; means over nodes and trainings."""
    metrics: dict[str, Any] = {}
    for split in SCORED_SPLITS:
        of_split = [row for row in rows if row["split"] == split]
        metrics[split] = {
            "accuracy": _mean(of_split),
            "num_cases": len({row["case_id"] for row in of_split}),
            **{
                f"accuracy_{name}": _mean([row for row in of_split if row["class_name"] == name])
                for name in sorted({row["class_name"] for row in of_split})
            },
        }
    return metrics


def evaluate_graph_model(cases_dir: Path, index_path: Path, model_dir: Path, out_dir: Path) -> None:
    """Predict all nodes by every training of an entry, and score the validation and test nodes.

    Args:
        cases_dir: `cases/D`.
        index_path: `prepared/D/index/A.json`.
        model_dir: `models/D/A`.
        out_dir: gets `cases.parquet` (columns above), `metrics.json`, and `predictions/seedS.parquet` with a row a
            node: `case_id`, `split`, `predicted` (class), and the probability of each class as `probability_CLASS`.
    """
    from pipelines.inference.graph_predictor import predict_nodes
    from pipelines.inference.model_files import PER_FOLD
    from pipelines.planning.graph_plan import GraphPlan
    from pipelines.preprocessing.graph import open_graph

    graph = read_graph(cases_dir)
    model = json.loads((model_dir / "model.json").read_text(encoding="utf-8"))
    index = json.loads(index_path.read_text(encoding="utf-8"))
    prepared = open_graph(index_path.parents[1] / index["folder"] / index["cases"][0]["file"])
    labels = model["plan"]["labels"]
    names = {value: name for name, value in labels.items()}
    rows: list[dict[str, Any]] = []
    for training in model["trainings"]:
        plan = GraphPlan.from_values(model["plan"] | {key: training[key] for key in PER_FOLD})
        probabilities = predict_nodes(plan, prepared, model_dir / training["weights"]).numpy()
        predicted = probabilities.argmax(axis=1)
        rows += node_rows(graph, predicted, training["seed"])
        table = pa.table(
            {
                "case_id": graph.case_ids(),
                "split": graph.splits.tolist(),
                "predicted": [names[value] for value in predicted.tolist()],
                **{f"probability_{name}": probabilities[:, value] for name, value in labels.items()},
            }
        )
        with atomic_path(out_dir / "predictions" / f"seed{training['seed']}.parquet") as temporary:
            pq.write_table(table, temporary)
    with atomic_path(out_dir / "cases.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary)
    write_text(out_dir / "metrics.json", json.dumps(node_metrics(rows), indent=2) + "\n")


def _mean(rows: Sequence[Mapping[str, Any]]) -> float:
    return sum(row["accuracy"] for row in rows) / len(rows)
