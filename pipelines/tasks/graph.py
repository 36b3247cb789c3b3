"""Classes for the nodes of a graph, of which some are known.

What stages ask of a task: see `pipelines.tasks.segmentation`. There are no folds: a graph comes with its own training,
validation and test nodes, the validation nodes choose the epoch, and the test nodes are what ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.evaluation.measures import DatasetFacts, Measure
from pipelines.planning.graph_plan import CONFIGURATION

if TYPE_CHECKING:
    from pipelines.evaluation.gallery import OverlayCase
    from pipelines.params import Study
    from pipelines.planning.graph_plan import GraphPlan
    from pipelines.tasks.graph_training import GraphTraining

SCORE = "accuracy"
# What `repro plan` shows of an architecture.
CONFIGURATIONS = (CONFIGURATION,)

# What the report of this family compares.
MEASURES = (Measure("accuracy", "accuracy"),)
DECLARABLE: tuple[Measure, ...] = ()
RANKED_SPLIT = "test"
REFERENCE = ("feature_classifier", "logistic regression on the node's own features")
UNIT = "node"
# What a search tries beside the planned one.
TUNED_OPTIMIZERS = ("adam", "adamw")
VALIDATION_CURVE = ("val_accuracy", "Accuracy of the validation nodes")


def collect(source: str, dataset: str, out_dir: Path, num_folds: int) -> None:
    """Check the graph and write it.

    Raises:
        ValueError: another number of folds than one, or the graph is not sound.
    """
    from pipelines.cases.graph_collect import collect_graph

    if num_folds != 1:
        raise ValueError(
            f"split.num_folds is {num_folds}, but a graph comes with its own training, validation and test nodes; set "
            "split.num_folds to 1"
        )
    collect_graph(source, dataset, out_dir)


def fingerprint(cases_dir: Path, out_dir: Path) -> None:
    """Take the fingerprint of the graph and write it to `out_dir`."""
    from pipelines.cases.graph import read_graph
    from pipelines.fingerprint.graph import take_fingerprint, write_fingerprint

    graph = read_graph(cases_dir)
    write_fingerprint(out_dir, take_fingerprint(graph), graph)


def plan(
    study: Study, dataset: str, entry_name: str, cases_dir: Path, fingerprint_dir: Path, sources: dict[str, str]
) -> GraphPlan:
    """Resolve the configuration of an entry."""
    import dataclasses
    from functools import partial

    from pipelines.cases.graph import read_graph
    from pipelines.fingerprint.graph import read_fingerprint
    from pipelines.ray_session.tasks import run_where_warm

    entry = study.entry(entry_name)
    if entry.target is not None:
        raise ValueError(
            f"entry {entry_name} has the target {entry.target}, but networks of graphs are files of "
            "repro_models/graph; set architecture instead"
        )
    assert entry.architecture
    return run_where_warm(
        partial(
            _plan_entry,
            dataset=dataset,
            entry=entry_name,
            architecture=entry.architecture,
            variant=entry.variant,
            configuration=entry.configuration,
            overrides=entry.overrides,
            fingerprint=read_fingerprint(fingerprint_dir / "fingerprint.json"),
            graph=read_graph(cases_dir),
            memory_gib=study.budget.memory_gib,
            sources=sources,
            training=dataclasses.asdict(study.training),
            budget=dataclasses.asdict(study.budget),
            seeds=study.budget.seeds,
        )
    )


def _plan_entry(**arguments: Any) -> GraphPlan:
    from pipelines.planning.graph_planner import plan_graph_entry

    return plan_graph_entry(**arguments)


def prepare(
    cases_dir: Path, plan_paths: Sequence[Path], out_dir: Path, work_dir: Path, compression: str = "none"
) -> None:
    """Write the graph as the plans want it into `out_dir`.

    It is too small to keep anything in `work_dir`, or to be compressed.
    """
    from pipelines.cases.graph import read_graph
    from pipelines.planning.graph_plan import read_graph_plan
    from pipelines.preprocessing.graph import prepare_graph

    prepare_graph(read_graph(cases_dir), [read_graph_plan(path) for path in plan_paths], out_dir)


def training(
    plan_values: dict[str, Any], cases: Sequence[dict[str, Any]], fold: int, seed: int, folder: Path
) -> GraphTraining:
    """One training of the entry whose plan has these JSON values.

    The seed draws weights and dropout, both of which the loop does: a step always sees the whole graph.
    """
    from pipelines.planning.graph_plan import GraphPlan
    from pipelines.tasks.graph_training import GraphTraining

    return GraphTraining(GraphPlan.from_values(plan_values), cases, folder)


def inner_split(cases: Sequence[dict[str, Any]], fold: int) -> tuple[list[dict[str, Any]], int]:
    """The graph as it is: trials train and validate on the nodes that do so anyway, and the ranking is by other ones.

    Args:
        cases: the one entry of the prepared index.
        fold: 0.

    Returns:
        The same cases, and the fold that validates among them.
    """
    return list(cases), fold


def evaluate(cases_dir: Path, index_path: Path, model_dir: Path, out_dir: Path, work_dir: Path) -> None:
    """Predict all nodes by every training; score the validation and test nodes.

    Writes `cases.parquet`, `metrics.json` and `predictions/` to `out_dir`; `work_dir` is not needed.
    """
    from functools import partial

    from pipelines.evaluation.node_scores import evaluate_graph_model
    from pipelines.ray_session.tasks import run_where_warm

    run_where_warm(partial(evaluate_graph_model, cases_dir, index_path, model_dir, out_dir))


def reference_rows(study: Study, cases_dir: Path) -> list[dict[str, Any]]:
    """Score rows of the feature classifier."""
    from pipelines.cases.graph import read_graph
    from pipelines.evaluation.feature_classifier import feature_classifier_rows

    return feature_classifier_rows(read_graph(cases_dir))


def dataset_facts(cases_dir: Path) -> DatasetFacts:
    """Name, labels, and how many nodes of what."""
    from pipelines.cases.graph import SPLITS, read_graph

    graph = read_graph(cases_dir)
    counts = ", ".join(f"{len(graph.nodes_of(split)):,} {split}" for split in SPLITS)
    facts = [
        f"{graph.num_nodes:,} nodes ({counts})",
        f"{graph.num_links:,} links",
        f"{graph.info.num_features:,} features a node",
        f"{len(graph.info.labels)} classes",
    ]
    return DatasetFacts(graph.info.name, graph.info.labels, facts)


def fingerprint_words(fingerprint_dir: Path) -> list[str]:
    """The fingerprint of the graph in sentences."""
    from pipelines.fingerprint.graph import read_fingerprint, sentences

    return sentences(read_fingerprint(fingerprint_dir / "fingerprint.json"))


def gallery(scores_of_leader: list[dict[str, Any]], cases_dir: Path, results_dir: Path) -> list[OverlayCase]:
    """Nothing: a node is no picture."""
    return []
