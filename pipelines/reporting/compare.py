"""Put the entries of a study on one data set side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.cases.case import read_cases, read_info
from pipelines.evaluation.case_scores import read_scores
from pipelines.evaluation.intensity_classifier import ENTRY as INTENSITY_CLASSIFIER
from pipelines.evaluation.intensity_classifier import intensity_classifier_rows
from pipelines.evaluation.ranking import ranking_rows
from pipelines.params import Study
from pipelines.reporting.overlays import read_overlays
from pipelines.reporting.page import verdict
from pipelines.reporting.report import read_history, write_report
from pipelines.reporting.tables import format_score, ranking_markdown
from pipelines.tracking.description import describe_model
from pipelines.tracking.follow import tell_results
from pipelines.tracking.provenance import git_commit, machine


def compare_entries(
    study: Study, cases_dir: Path, plans_dir: Path, models_dir: Path, results_dir: Path, out_dir: Path
) -> None:
    """Rank the entries `study.architectures` names, beside the intensity classifier, and write the report.

    Args:
        study: what to compare, and how intervals are taken.
        cases_dir: `cases/D`.
        plans_dir: `plans/D`.
        models_dir: `models/D`.
        results_dir: `results/D`.
        out_dir: `reports/D`.
    """
    cases, dataset = read_cases(cases_dir / "cases.parquet"), read_info(cases_dir / "dataset.json")
    scores = {entry: read_scores(results_dir / entry / "cases.parquet") for entry in study.architectures}
    models = {entry: _read_json(models_dir / entry / "model.json") for entry in study.architectures}
    info = {entry: _entry_info(model) for entry, model in models.items()}
    scores[INTENSITY_CLASSIFIER] = intensity_classifier_rows(
        cases, dataset.labels, study.folds(), study.evaluation.tolerance_mm, dataset.ignore_label
    )
    info[INTENSITY_CLASSIFIER] = {"is_reference": True}
    ranking = ranking_rows(scores, info, study.evaluation.num_bootstrap)
    leader = next(row["entry"] for row in ranking if row["rank"] == 1)
    write_report(
        out_dir,
        dataset_info=dataset,
        ranking=ranking,
        scores=scores,
        histories={entry: read_history(models_dir / entry / "history.parquet") for entry in study.architectures},
        overlays=read_overlays(scores[leader], cases, results_dir / leader / "predictions"),
        plans={entry: _read_json(plans_dir / f"{entry}.json") for entry in study.architectures},
        provenance={"commit": git_commit() or "unknown", "machine": machine()},
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
    artifacts = [out_dir / "index.html", out_dir / "ranking.md", *sorted((out_dir / "figures").glob("*.png"))]
    for row in ranking:
        if row["entry"] not in study.architectures:
            continue
        model_dir = models_dir / row["entry"]
        dataset = _read_json(model_dir / "model.json")["plan"]["dataset"]
        description = describe_model(model_dir, study.datasets[dataset].source)
        was_told = tell_results(
            description, _final_metrics(row), artifacts, result_note(row, ranking), study.tracking.uri
        )
        if not was_told:
            return False
    return True


def result_note(row: Mapping[str, Any], ranking: Sequence[Mapping[str, Any]]) -> str:
    """The result of one entry in words, Markdown: its place, its figures, and the verdict on all."""
    num_ranked = sum(other["rank"] is not None for other in ranking)
    place = f"**{row['entry']}** is number {row['rank']} of {num_ranked}"
    interval = f"95 % interval {format_score(row['dice_low'])} to {format_score(row['dice_high'])}"
    figures = f"Dice {format_score(row['dice'])} ({interval}) over {row['num_cases']} cases"
    labels = {name: number for number, name in enumerate(row["classes"], start=1)}
    return "\n\n".join([f"{place}: {figures}.", *verdict(ranking), ranking_markdown(ranking, labels)])


def _entry_info(model: Mapping[str, Any]) -> dict[str, Any]:
    plan, trainings = model["plan"], model["trainings"]
    return {
        "is_reference": False,
        "architecture": plan["architecture"],
        "configuration": plan["configuration"],
        "num_parameters": trainings[0]["num_parameters"],
        "train_seconds": sum(training["seconds"] for training in trainings),
    }


def _final_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    metrics = {"cv/dice": row["dice"], "cv/dice_low": row["dice_low"], "cv/dice_high": row["dice_high"]}
    metrics |= {f"cv/dice_{name}": scores["dice"] for name, scores in row["classes"].items()}
    if row["test"]:
        metrics["test/dice"] = row["test"]["dice"]
    return {name: value for name, value in metrics.items() if value is not None and not math.isnan(value)}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
