"""Plan an entry that classes the nodes of a graph: configuration of the training, from fingerprint and architecture."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipelines.fingerprint.graph import GraphFingerprint
from pipelines.planning.graph_plan import CONFIGURATION, GraphPlan, GraphPreprocessing
from pipelines.planning.overrides import check_keys, check_overrides, network_config, training_settings
from pipelines.planning.sizing import MemoryBudgetError
from repro_models import registry
from repro_models.contract import GraphProblem, Recipe

if TYPE_CHECKING:
    from pipelines.cases.graph import Graph

OVERRIDES = ("network", "optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "clip_norm")
# Below it more neighbours than not are of another class.
_EVEN = 0.5


def plan_graph_entry(
    *,
    dataset: str,
    entry: str,
    architecture: str,
    variant: str | None,
    configuration: str | None,
    overrides: Mapping[str, Any],
    fingerprint: GraphFingerprint,
    graph: Graph,
    memory_gib: float,
    sources: Mapping[str, str],
    training: Mapping[str, Any],
    budget: Mapping[str, Any],
    seeds: Sequence[int],
) -> GraphPlan:
    """Plan an entry.

    Args:
        dataset: name of the data set.
        entry: name of the entry.
        architecture: `family/name`.
        variant: key of the architecture's `VARIANTS`, or None for the defaults of its `Config`.
        configuration: `full_graph`, or None for it.
        overrides: keys `OVERRIDES`.
        fingerprint: of the graph.
        graph: on which the memory of a step is measured.
        memory_gib: what a training step may take.
        sources: source file to hash, copied into the plan.
        training: keys of the section `training` of params.yaml.
        budget: keys kind, steps, minutes, steps_per_epoch, early_stop_epochs.
        seeds: seeds to train.

    Raises:
        ValueError: an unknown architecture, variant, configuration or override; a recipe the architecture does not
            have; a step that takes more than the memory budget.
    """
    module = registry.load(architecture)
    if configuration not in (None, CONFIGURATION):
        raise ValueError(f"unknown configuration {configuration!r}; valid is {CONFIGURATION}")
    check_keys("override of a graph's entry", overrides, OVERRIDES)
    check_overrides(overrides)
    if variant is not None:
        check_keys(f"variant of {architecture}", [variant], module.VARIANTS)
    base = module.Config() if variant is None else module.VARIANTS[variant].config
    config = network_config(base, overrides.get("network", {}))
    recipe = _recipe(module, architecture) if training["recipe"] == "paper" else None
    settings = training_settings(training if recipe is None else _as_training(training, recipe), overrides)
    limit, keeps_best, why_training = _limit(budget, recipe)
    preprocessing, why_normalisation = _preprocessing(fingerprint)
    problem = GraphProblem(fingerprint.num_features, len(graph.info.labels))
    network = dataclasses.asdict(config)
    predicted = _predicted_gib(architecture, network, dataclasses.asdict(problem), graph)
    if predicted > memory_gib:
        raise MemoryBudgetError(
            f"data set {dataset}, entry {entry}: a step on the whole graph takes {predicted:.3g} GiB, but "
            f"budget.memory_gib is {memory_gib:g}; raise it to {predicted * 1.01:.3g}, or take a smaller network"
        )
    reasons = [
        why_normalisation,
        f"links: {fingerprint.num_links:,}, each in both directions; every node is its own neighbour too",
        f"batch: the whole graph, because a step on its {fingerprint.num_nodes:,} nodes takes {predicted:.3g} of the "
        f"{memory_gib:g} GiB; the loss is the cross entropy of the {fingerprint.num_nodes_of_split['train']:,} "
        "training nodes",
        f"reach: a network of two layers sees the features of {fingerprint.reach[2]:,} of {fingerprint.num_nodes:,} "
        "nodes from the training nodes, and no other node's",
        *_neighbours_reason(fingerprint),
        *why_training,
    ]
    reasons += [f"override {name}: {json.dumps(value)}" for name, value in overrides.items()]
    return GraphPlan(
        dataset=dataset,
        entry=entry,
        architecture=architecture,
        variant=variant,
        configuration=CONFIGURATION,
        problem=dataclasses.asdict(problem),
        labels=dict(graph.info.labels),
        network=network,
        preprocessing=preprocessing,
        batch_size=1,
        recipe=training["recipe"],
        optimizer=settings["optimizer"],
        schedule=settings["schedule"],
        clip_norm=settings["clip_norm"],
        keeps_best=keeps_best,
        budget=limit,
        num_folds=1,
        folds=[0],
        seeds=list(seeds),
        memory={"predicted_gib": predicted, "memory_gib": memory_gib},
        reasons=reasons,
        overrides=copy.deepcopy(dict(overrides)),
        sources=dict(sources),
    )


def _recipe(module: ModuleType, architecture: str) -> Recipe:
    if not hasattr(module, "RECIPE"):
        raise ValueError(
            f"training.recipe is paper, but {architecture} has no RECIPE in its file; set training.recipe to house"
        )
    recipe: Recipe = module.RECIPE
    return recipe


def _as_training(training: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The section `training` with what the paper says in place."""
    optimizer = {
        "name": recipe.optimizer,
        "learning_rate": recipe.learning_rate,
        "momentum": training["optimizer"]["momentum"],
        "weight_decay": recipe.weight_decay,
        "decayed": list(recipe.decayed),
    }
    schedule = training["schedule"] | {"name": "constant", "warmup_fraction": 0.0}
    return {**training, "optimizer": optimizer, "schedule": schedule, "clip_norm": None}


def _limit(budget: Mapping[str, Any], recipe: Recipe | None) -> tuple[dict[str, Any], bool, list[str]]:
    """Budget of the training, whether the best epoch counts, and why."""
    keys = ("kind", "steps", "minutes", "steps_per_epoch", "early_stop_epochs")
    limit = {key: budget[key] for key in keys} | {"early_stop_rule": "score"}
    if recipe is None:
        why = "training: by the study's settings; the weights of the epoch with the best validation accuracy count"
        return limit, True, [why]
    limit |= {
        "kind": "steps",
        "steps": recipe.steps,
        "steps_per_epoch": 1,
        "early_stop_epochs": recipe.early_stop_epochs,
        "early_stop_rule": recipe.early_stop_rule,
    }
    ends = {
        "score": f"the validation accuracy has not risen for {recipe.early_stop_epochs} epochs",
        "score_and_loss": f"neither accuracy nor loss of validation was as good as ever for {recipe.early_stop_epochs} "
        "epochs",
        "mean_loss": f"the validation loss is above its mean over the {recipe.early_stop_epochs} epochs before",
    }
    return (
        limit,
        recipe.keeps_best,
        [
            f"training: as in the paper, {recipe.optimizer} at a constant {recipe.learning_rate:g}, weight decay "
            f"{recipe.weight_decay:g} of {', '.join(recipe.decayed)}, an epoch a step, {recipe.steps:,} at most",
            f"end: where {ends[recipe.early_stop_rule]}; the weights of the "
            f"{'best' if recipe.keeps_best else 'last'} epoch count",
        ],
    )


def _preprocessing(fingerprint: GraphFingerprint) -> tuple[GraphPreprocessing, str]:
    if fingerprint.smallest_value >= 0:
        counts = fingerprint.features_per_node
        why = (
            "normalisation: the features of a node are divided by their sum, because none is negative and nodes have "
            f"from {counts['min']:g} to {counts['max']:g} of them"
        )
        return GraphPreprocessing(CONFIGURATION, "row"), why
    why = f"normalisation: none, because features go down to {fingerprint.smallest_value:g} and their sum may be 0"
    return GraphPreprocessing(CONFIGURATION, "none"), why


def _neighbours_reason(fingerprint: GraphFingerprint) -> list[str]:
    if fingerprint.homophily is None:
        return []
    share = f"{fingerprint.homophily:.0%} of the links between nodes whose class may be seen join two of one class"
    if fingerprint.homophily >= _EVEN:
        return [f"neighbours: {share}, so that what neighbours say helps"]
    return [f"neighbours: {share}; a network that averages over neighbours may do worse than the features alone"]


def _predicted_gib(architecture: str, network: dict[str, Any], problem: dict[str, int], graph: Graph) -> float:
    import torch

    from pipelines.planning.graph_network import build_graph_network, step_gib

    shape = (graph.num_nodes, graph.info.num_features)
    indices = torch.from_numpy(graph.feature_rows), torch.from_numpy(graph.feature_columns)
    x = torch.sparse_coo_tensor(
        torch.stack(indices),
        torch.from_numpy(graph.feature_values),
        shape,
        is_coalesced=True,
        check_invariants=False,
    )
    # What dropout keeps decides a little about the memory, and a plan must not change from run to run.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return step_gib(build_graph_network(architecture, network, problem).train(), x, torch.from_numpy(graph.edges))
