"""The plan of an entry that classes the nodes of a graph: the whole resolved configuration, and why it is so."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.planning.plan import as_tuples, checked_values

CONFIGURATION = "full_graph"


@dataclass(frozen=True)
class GraphPreprocessing:
    """What happens to the features. Entries with equal preprocessing share a prepared file.

    Attributes:
        configuration: `full_graph`: every step sees all nodes and links.
        normalisation: `row` (the features of a node add up to 1) or `none`.
    """

    configuration: str
    normalisation: str

    def digest(self) -> str:
        """Hexadecimal SHA-256 of the values."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class GraphPlan:
    """Everything training, prediction and evaluation of an entry need to know.

    Attributes:
        dataset: name of the data set.
        entry: name of the entry.
        architecture: `family/name`.
        variant: key of the architecture's `VARIANTS`, None for the defaults of its `Config`.
        configuration: `full_graph`.
        problem: keys num_features, num_classes.
        labels: class name to value.
        network: all fields of the architecture's `Config`.
        preprocessing: see there.
        batch_size: 1, the whole graph.
        recipe: `paper` or `house`.
        optimizer: keys name, learning_rate, momentum, weight_decay, decayed.
        schedule: keys name, exponent, warmup_fraction.
        clip_norm: largest norm of the gradient, None for any.
        keeps_best: the weights of the best epoch count, not the last ones.
        budget: keys kind, steps, minutes, steps_per_epoch, early_stop_epochs, early_stop_rule.
        num_folds: 1, the split of the data set.
        folds: [0].
        seeds: one training each.
        memory: keys predicted_gib (of a training step), memory_gib (the budget).
        reasons: one sentence per decision.
        overrides: what the user set for this entry.
        sources: source file to hash.
    """

    dataset: str
    entry: str
    architecture: str
    variant: str | None
    configuration: str
    problem: dict[str, int]
    labels: dict[str, int]
    network: dict[str, Any]
    preprocessing: GraphPreprocessing
    batch_size: int
    recipe: str
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    clip_norm: float | None
    keeps_best: bool
    budget: dict[str, Any]
    num_folds: int
    folds: list[int]
    seeds: list[int]
    memory: dict[str, float]
    reasons: list[str]
    overrides: dict[str, Any]
    sources: dict[str, str]

    def to_json(self) -> str:
        """All fields, in their order."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=False) + "\n"

    def summary(self) -> dict[str, Any]:
        """What `repro plan` shows of it."""
        shown = ("batch_size", "network", "optimizer", "schedule", "memory")
        return {key: getattr(self, key) for key in shown} | {"normalisation": self.preprocessing.normalisation}

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> GraphPlan:
        """The plan whose JSON values these are.

        Raises:
            ValueError: not those of a plan of this version.
        """
        values = checked_values(cls, values)
        values["preprocessing"] = GraphPreprocessing(**values["preprocessing"])
        values["network"] = as_tuples(values["network"])
        return cls(**values)


def read_graph_plan(path: Path) -> GraphPlan:
    """Read a plan.

    Raises:
        ValueError: the file is not a plan of this version.
    """
    try:
        return GraphPlan.from_values(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
