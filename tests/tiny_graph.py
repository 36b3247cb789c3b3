"""A graph of 551 nodes in Planetoid's eight files, and its study: what tests of the graph family stand on.

Nodes 0 to 5 train, 6 to 505 validate, 506 to 519 are the rest, 520 to 550 test but for 535, a gap in the numbers. The
class of a node is its number modulo 3. A node has the feature of its class and two at random; links join a node to
three others, mostly of its class.
"""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.sparse import csr_matrix

from pipelines.params import Study, read_params
from pipelines.planning.graph_plan import GraphPlan, read_graph_plan
from pipelines.tasks import graph as task
from pipelines.training.folds import TrainingRequest, training_requests
from pipelines.tuning.results import pass_on

DATASET = "tiny"
NUM_TRAINING, NUM_OTHERS, NUM_NODES, GAP = 6, 520, 551, 535
NUM_FEATURES, NUM_CLASSES = 9, 3
PARAMS: dict[str, Any] = {
    "family": "graph",
    "datasets": {DATASET: {"source": "data/tiny"}},
    "architectures": ["gcn_tiny", "gat_tiny"],
    "entries": {
        "gcn_tiny": {"architecture": "gcn", "variant": "tiny"},
        "gat_tiny": {"architecture": "gat", "variant": "tiny"},
    },
    "split": {"num_folds": 1},
    "preprocessing": {},
    "budget": {"steps": 12, "steps_per_epoch": 3, "memory_gib": 0.5, "seeds": [0, 1]},
    "training": {"optimizer": {"name": "adam", "learning_rate": 0.05, "weight_decay": 0.0}},
    "inference": {},
    "evaluation": {"num_bootstrap": 50},
    "tuning": {},
    "tracking": {"uri": "none"},
}
# As Python 2 and the libraries of its time called them.
_OLD_NAMES = {
    b"cscipy.sparse._csr\ncsr_matrix": b"cscipy.sparse.csr\ncsr_matrix",
    b"cnumpy._core.multiarray\n_reconstruct": b"cnumpy.core.multiarray\n_reconstruct",
}


def features_and_links() -> tuple[np.ndarray, dict[int, list[int]]]:
    """Features (N, C), a row of zeros for the gap, and the neighbours of every node but the gap."""
    rng = np.random.default_rng(0)
    x = np.zeros((NUM_NODES, NUM_FEATURES), np.float32)
    links: dict[int, list[int]] = defaultdict(list)
    for node in range(NUM_NODES):
        if node == GAP:
            continue
        x[node, node % NUM_CLASSES] = 1
        x[node, rng.choice(np.arange(NUM_CLASSES, NUM_FEATURES), 2, replace=False)] = 1
        for _ in range(3):
            other = int(rng.integers(NUM_NODES // 3)) * 3 + (node if rng.random() < 0.8 else node + 1) % 3
            if other not in (node, GAP) and other < NUM_NODES:
                links[node].append(other)
    return x, links


def write_planetoid(folder: Path, name: str = DATASET, **changes: Any) -> Path:
    """Write the eight files; `changes` replace what a part (`x`, `ally`, `graph`, ...) holds."""
    x, links = features_and_links()
    one_hot = np.eye(NUM_CLASSES, dtype=np.int32)[np.arange(NUM_NODES) % NUM_CLASSES]
    test_nodes = np.random.default_rng(1).permutation([node for node in range(NUM_OTHERS, NUM_NODES) if node != GAP])
    parts = {
        "x": csr_matrix(x[:NUM_TRAINING]),
        "y": one_hot[:NUM_TRAINING],
        "allx": csr_matrix(x[:NUM_OTHERS]),
        "ally": one_hot[:NUM_OTHERS],
        "tx": csr_matrix(x[test_nodes]),
        "ty": one_hot[test_nodes],
        "graph": links,
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    for part, value in parts.items():
        (folder / f"ind.{name}.{part}").write_bytes(value if isinstance(value, bytes) else old_pickle(value))
    (folder / f"ind.{name}.test.index").write_text("".join(f"{node}\n" for node in test_nodes), encoding="ascii")
    return folder


def old_pickle(value: Any) -> bytes:
    """As Python 2 would have pickled it, as far as names go; bytes need the first protocol that has them."""
    content = pickle.dumps(value, protocol=3)
    for today, then in _OLD_NAMES.items():
        content = content.replace(today, then)
    return content


@dataclass(frozen=True)
class TinyGraphStudy:
    """Folders of the study, laid out as in dvc.yaml."""

    root: Path

    @property
    def params(self) -> Study:
        return read_params(self.root / "params.yaml")

    def folder(self, kind: str) -> Path:
        """`cases`, `plans`, `prepared`, ... of the data set."""
        return self.root / kind / DATASET

    def plan_path(self, entry: str) -> Path:
        return self.folder("plans") / f"{entry}.json"

    def index_path(self, entry: str) -> Path:
        return self.folder("prepared") / "index" / f"{entry}.json"

    def plan(self, entry: str) -> GraphPlan:
        return read_graph_plan(self.plan_path(entry))

    def requests(self, work_dir: Path, entry: str, **plan_changes: Any) -> list[TrainingRequest]:
        """The trainings of an entry; `plan_changes` replace values of its plan."""
        values = json.loads(self.plan_path(entry).read_text(encoding="utf-8")) | plan_changes
        plan_path = work_dir / f"{entry}.json"
        plan_path.parent.mkdir(parents=True, exist_ok=True)
        plan_path.write_text(json.dumps(values), encoding="utf-8")
        pass_on(values["optimizer"], values["schedule"], work_dir / "tuned" / entry)
        best_path = work_dir / "tuned" / entry / "best.yaml"
        return training_requests("graph", plan_path, self.index_path(entry), best_path, work_dir / "train")


def make_tiny_graph_study(root: Path) -> TinyGraphStudy:
    """Write the files and params.yaml, and run the stages up to `preprocess`."""
    study = TinyGraphStudy(root)
    source = write_planetoid(root / "data" / DATASET)
    params = PARAMS | {"datasets": {DATASET: {"source": str(source)}}}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    cases_dir, fingerprint_dir = study.folder("cases"), study.folder("fingerprints")
    task.collect(str(source), DATASET, cases_dir, 1)
    task.fingerprint(cases_dir, fingerprint_dir)
    for entry in study.params.architectures:
        plan = task.plan(study.params, DATASET, entry, cases_dir, fingerprint_dir, {})
        study.plan_path(entry).parent.mkdir(parents=True, exist_ok=True)
        study.plan_path(entry).write_text(plan.to_json(), encoding="utf-8")
    paths = [study.plan_path(entry) for entry in study.params.architectures]
    task.prepare(cases_dir, paths, study.folder("prepared"), root / "work")
    return study
