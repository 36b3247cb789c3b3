"""The fingerprint of a graph: what planning and a reader need to know of it.

Classes are looked at for training and validation nodes alone; links and features of all nodes are there from the start.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.atomic_files import atomic_path, write_text
from pipelines.cases.graph import SPLITS, Graph

_QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}
_NUM_HOPS = 3


@dataclass(frozen=True)
class GraphFingerprint:
    """A graph in numbers.

    Attributes:
        num_nodes: in all.
        num_nodes_of_split: by split.
        num_links: undirected, without repeats and loops.
        num_features: of a node.
        degrees: quantiles (min, q25, median, q75, max) of the links of a node.
        features_per_node: quantiles of the features of a node that are not 0.
        smallest_value: of a feature, the zeros included.
        num_isolated: nodes without a link.
        class_counts: training nodes of each class.
        homophily: share of the links between training and validation nodes that join two of one class; None without
            such links.
        num_homophily_links: how many links that share is of.
        reach: nodes within 0, 1, 2 and 3 links of a training node.
    """

    num_nodes: int
    num_nodes_of_split: dict[str, int]
    num_links: int
    num_features: int
    degrees: dict[str, float]
    features_per_node: dict[str, float]
    smallest_value: float
    num_isolated: int
    class_counts: dict[str, int]
    homophily: float | None
    num_homophily_links: int
    reach: list[int]


def take_fingerprint(graph: Graph) -> GraphFingerprint:
    """Measure a graph."""
    degrees = np.bincount(graph.edges[1], minlength=graph.num_nodes)
    feature_counts = np.bincount(graph.feature_rows, minlength=graph.num_nodes)
    training = graph.classes[graph.nodes_of("train")]
    is_known = np.isin(graph.splits, ["train", "validation"])
    known = graph.edges[:, is_known[graph.edges[0]] & is_known[graph.edges[1]]]
    is_same = graph.classes[known[0]] == graph.classes[known[1]]
    has_zeros = len(graph.feature_values) < graph.num_nodes * graph.info.num_features
    return GraphFingerprint(
        num_nodes=graph.num_nodes,
        num_nodes_of_split={split: len(graph.nodes_of(split)) for split in SPLITS},
        num_links=graph.num_links,
        num_features=graph.info.num_features,
        degrees=_quantiles(degrees),
        features_per_node=_quantiles(feature_counts),
        smallest_value=float(min(graph.feature_values.min(initial=np.inf), 0 if has_zeros else np.inf)),
        num_isolated=int((degrees == 0).sum()),
        class_counts={name: int((training == value).sum()) for name, value in graph.info.labels.items()},
        homophily=float(is_same.mean()) if len(is_same) else None,
        num_homophily_links=len(is_same) // 2,
        reach=_reach(graph),
    )


def write_fingerprint(folder: Path, fingerprint: GraphFingerprint, graph: Graph) -> None:
    """Write `fingerprint.json` (its attributes) and `fingerprint.parquet`, one row a node.

    Columns: `case_id`, `split`, `degree`, `num_features` (that are not 0).
    """
    rows = {
        "case_id": graph.case_ids(),
        "split": graph.splits.tolist(),
        "degree": np.bincount(graph.edges[1], minlength=graph.num_nodes),
        "num_features": np.bincount(graph.feature_rows, minlength=graph.num_nodes),
    }
    with atomic_path(folder / "fingerprint.parquet") as temporary:
        pq.write_table(pa.table(rows), temporary)
    write_text(folder / "fingerprint.json", json.dumps(dataclasses.asdict(fingerprint), indent=2) + "\n")


def read_fingerprint(path: Path) -> GraphFingerprint:
    """Read a `fingerprint.json`."""
    return GraphFingerprint(**json.loads(path.read_text(encoding="utf-8")))


def sentences(fingerprint: GraphFingerprint) -> list[str]:
    """The fingerprint in words, for a person who has not seen the data."""
    degrees, features, counts = fingerprint.degrees, fingerprint.features_per_node, fingerprint.num_nodes_of_split
    told = [
        f"The graph has {fingerprint.num_nodes:,} nodes and {fingerprint.num_links:,} links.",
        f"{counts['train']:,} nodes train, {counts['validation']:,} validate, {counts['test']:,} test; of the other "
        f"{counts['rest']:,} only features and links are seen.",
        f"A node has {degrees['median']:g} links in the median, {degrees['q25']:g} to {degrees['q75']:g} in the middle "
        f"half and {degrees['max']:g} at most; {fingerprint.num_isolated:,} nodes have none.",
        f"Of {fingerprint.num_features:,} features a node has {features['median']:g} that are not 0 in the median, "
        f"{features['min']:g} to {features['max']:g} in all.",
        "Training nodes of each class: "
        + ", ".join(f"{name} {count}" for name, count in fingerprint.class_counts.items())
        + ".",
        f"Within one link of a training node are {fingerprint.reach[1]:,} nodes, within two {fingerprint.reach[2]:,}, "
        f"within three {fingerprint.reach[3]:,}.",
    ]
    if fingerprint.homophily is not None:
        told.append(
            f"{fingerprint.homophily:.0%} of the {fingerprint.num_homophily_links:,} links between training and "
            "validation nodes join two nodes of one class."
        )
    return told


def _quantiles(counts: NDArray[np.int64]) -> dict[str, float]:
    return {name: float(np.quantile(counts, share)) for name, share in _QUANTILES.items()}


def _reach(graph: Graph) -> list[int]:
    is_reached = graph.splits == "train"
    reach = [int(is_reached.sum())]
    for _ in range(_NUM_HOPS):
        is_reached = is_reached.copy()
        is_reached[graph.edges[1][is_reached[graph.edges[0]]]] = True
        reach.append(int(is_reached.sum()))
    return reach
