"""Put the entries of a study on one data set side by side."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.evaluation.case_scores import read_scores
from pipelines.evaluation.ranking import ranking_rows
from pipelines.params import Study
from pipelines.reporting.comparison import Comparison
from pipelines.reporting.histories import read_history
from pipelines.reporting.report import Search, write_report
from pipelines.reporting.tables import format_score, ranking_markdown
from pipelines.reporting.verdict import verdict
from pipelines.tasks.lookup import task_of
from pipelines.tracking.description import describe_model
from pipelines.tracking.follow import tell_results
from pipelines.tracking.provenance import digest_of, git_commit, machine


@dataclass(frozen=True)
class DatasetFolders:
    """Where the stages left what they know of one data set.

    Attributes:
        cases: `cases/D`.
        fingerprint: `fingerprints/D`.
        plans: `plans/D`.
        tuned: `tuned/D`.
        models: `models/D`.
        results: `results/D`.
    """

    cases: Path
    fingerprint: Path
    plans: Path
    tuned: Path
    models: Path
    results: Path


def compare_entries(study: Study, folders: DatasetFolders, out_dir: Path) -> None:
    """Rank the entries `study.architectures` names, beside the yardstick of the family, and write the report.

    Args:
        study: what to compare, and how intervals are taken.
        folders: what the other stages wrote.
        out_dir: `reports/D`.
    """
    task = task_of(study.family)
    scores = {entry: read_scores(folders.results / entry / "cases.parquet") for entry in study.architectures}
    models = {entry: _read_json(folders.models / entry / "model.json") for entry in study.architectures}
    searches = {entry: _read_search(folders.tuned / entry) for entry in study.architectures}
    info = {entry: _entry_info(model, searches[entry]) for entry, model in models.items()}
    reference, _ = task.REFERENCE
    scores[reference] = task.reference_rows(study, folders.cases)
    info[reference] = {"is_reference": True}
    comparison = Comparison.of_task(task, set.intersection(*(set(row) for rows in scores.values() for row in rows[:1])))
    ranking = ranking_rows(scores, info, comparison.measures, comparison.ranked_split, study.evaluation.num_bootstrap)
    leader = next(row["entry"] for row in ranking if row["rank"] == 1)
    dataset = models[leader]["plan"]["dataset"]
    write_report(
        out_dir,
        comparison=comparison,
        dataset=task.dataset_facts(folders.cases),
        fingerprint=task.fingerprint_words(folders.fingerprint),
        ranking=ranking,
        scores=scores,
        histories={entry: read_history(folders.models / entry / "history.parquet") for entry in study.architectures},
        overlays=task.gallery(scores[leader], folders.cases, folders.results / leader),
        plans={entry: _read_json(folders.plans / f"{entry}.json") for entry in study.architectures},
        searches={entry: search for entry, search in searches.items() if search.trials},
        settings=_settings(study, dataset),
        provenance=_provenance(study, dataset, models),
        command="dvc repro",
    )


def tell_ranking(study: Study, models_dir: Path, out_dir: Path) -> bool:
    """Tell MLflow the results of every entry: scores, table, report, pictures, and the note that says it in words.

    Args:
        study: whose entries.
        models_dir: `models/D`.
        out_dir: `reports/D`, as `compare_entries` wrote it.

    Returns:
        Whether MLflow was told everything; one line on standard error says it where it was not.
    """
    ranking = _read_json(out_dir / "ranking.json")
    comparison = Comparison.of_ranking(task_of(study.family), ranking)
    artifacts = [out_dir / "index.html", out_dir / "ranking.md", *sorted((out_dir / "figures").glob("*.png"))]
    for row in ranking:
        if row["entry"] not in study.architectures:
            continue
        model_dir = models_dir / row["entry"]
        dataset = _read_json(model_dir / "model.json")["plan"]["dataset"]
        description = describe_model(model_dir, study.datasets[dataset].source)
        note = result_note(row, ranking, comparison)
        was_told = tell_results(description, _final_metrics(row, comparison), artifacts, note, study.tracking.uri)
        if not was_told:
            return False
    return True


def result_note(row: Mapping[str, Any], ranking: Sequence[Mapping[str, Any]], comparison: Comparison) -> str:
    """The result of one entry in words, Markdown: its place, its figures, and the verdict on all."""
    num_ranked, primary = sum(other["rank"] is not None for other in ranking), comparison.primary
    score, low, high = (format_score(row[key], primary.digits) for key in ("score", "score_low", "score_high"))
    place = f"**{row['entry']}** is number {row['rank']} of {num_ranked}"
    cases = comparison.cases(row["num_cases"])
    figures = f"{primary.title} {score} (95 % interval {low} to {high}) over {cases}"
    rescues = [f"Training {rescue}" for rescue in row.get("rescues", ())]
    texts = [f"{place}: {figures}.", *rescues, *verdict(ranking, comparison), ranking_markdown(ranking, comparison)]
    return "\n\n".join(texts)


def _entry_info(model: Mapping[str, Any], search: Search) -> dict[str, Any]:
    plan, trainings = model["plan"], model["trainings"]
    return {
        "is_reference": False,
        "architecture": plan["architecture"],
        "configuration": plan["configuration"],
        "num_parameters": trainings[0]["num_parameters"],
        "train_seconds": sum(training["seconds"] for training in trainings),
        "tuning": search.best["num_trials"] or None,
        "rescues": [
            f"fold {training['fold']} seed {training['seed']} had collapsed. {rescue['message']}"
            for training in trainings
            for rescue in training["rescues"]
        ],
    }


def _final_metrics(row: Mapping[str, Any], comparison: Comparison) -> dict[str, float]:
    key = comparison.primary.key
    group = "cv" if comparison.is_out_of_fold else "test"
    metrics = {f"{group}/{key}": row["score"], f"{group}/{key}_low": row["score_low"]}
    metrics |= {f"{group}/{key}_high": row["score_high"]}
    metrics |= {f"{group}/{key}_{name}": scores[key] for name, scores in row["classes"].items()}
    if row["test"]:
        metrics[f"test/{key}"] = row["test"]["score"]
    return {name: value for name, value in metrics.items() if value is not None and not math.isnan(value)}


def _settings(study: Study, dataset: str) -> str:
    """The study as a params file, without what concerns other data sets and without where it ran."""
    values = dataclasses.asdict(study)
    values["datasets"] = {dataset: values["datasets"][dataset]}
    values["entries"] = {name: entry for name, entry in values["entries"].items() if name in study.architectures}
    for elsewhere in ("ray", "tracking"):
        del values[elsewhere]
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    return text


def _provenance(study: Study, dataset: str, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = next(iter(models.values()))
    cases = [[case["case_id"], case["digest"]] for case in first["cases"]]
    commit = git_commit() or "unknown"
    return {
        "commit": commit.replace("-dirty", ", and changes that are not committed"),
        "data": f"{study.datasets[dataset].source}, {len(cases)} cases, digest {digest_of(cases)[:12]}",
        "folds": [str(fold) for fold in first["plan"]["folds"]],
        "seeds": [str(seed) for seed in first["plan"]["seeds"]],
        "trainings": sum(len(model["trainings"]) for model in models.values()),
        **machine(),
    }


def _read_search(folder: Path) -> Search:
    import pyarrow.parquet as pq

    best = yaml.safe_load((folder / "best.yaml").read_text(encoding="utf-8"))
    return Search(pq.read_table(folder / "trials.parquet").to_pylist(), best)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
