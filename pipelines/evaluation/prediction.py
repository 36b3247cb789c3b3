"""Predict and score the cases of a trained entry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.atomic_files import link, write_text
from pipelines.cases.annotation import read_case_label, read_case_objects
from pipelines.cases.case import Case, read_cases, read_info
from pipelines.cases.nifti import label_suffix, write_label
from pipelines.evaluation.case_scores import OUT_OF_FOLD, TEST, score_case, write_scores
from pipelines.evaluation.declared_measures import needs_probabilities
from pipelines.evaluation.ranking import case_means
from pipelines.inference.model_files import read_model_plan
from pipelines.planning.plan import Plan
from pipelines.ray_session.map_cases import map_cases
from pipelines.ray_session.session import num_gpus
from pipelines.tracking.provenance import code_digest, digest_of, files_digest


@dataclass(frozen=True)
class _Prediction:
    """One label map to make and to score."""

    case: Case
    prepared_path: str
    weights: tuple[str, ...]
    split: str
    fold: int | None
    seed: int
    labels: dict[str, int]
    ignore_label: int | None
    tolerance_mm: float
    declared: tuple[str, ...]
    folder: Path  # in the work folder
    name: str

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}{label_suffix(self.case.image_paths[0])}"

    @property
    def rows_path(self) -> Path:
        return self.folder / f"{self.name}.json"

    def probability_paths(self) -> dict[int, Path]:
        """Of each foreground class, where the data set asks for probabilities."""
        if not needs_probabilities(self.declared):
            return {}
        suffix = label_suffix(self.case.image_paths[0])
        return {
            value: self.folder / f"{self.name}_probability{value}{suffix}"
            for value in self.labels.values()
            if value not in (0, self.ignore_label)
        }


def evaluate_model(cases_dir: Path, index_path: Path, model_dir: Path, out_dir: Path, work_dir: Path) -> None:
    """Predict validation cases by their fold's network and test cases by all folds together; score what has a label.

    Args:
        cases_dir: `cases/D`.
        index_path: `prepared/D/index/A.json`.
        model_dir: `models/D/A`.
        out_dir: gets `cases.parquet` (keys of `case_scores`), `metrics.json` and `predictions/<split>/`: label maps,
            and the probabilities of each class in 16 bits where a declared measure needs them.
        work_dir: finished cases stay here, so an interrupted evaluation goes on where it was.
    """
    plan = read_model_plan(model_dir)
    index = json.loads(index_path.read_text(encoding="utf-8"))
    model = json.loads((model_dir / "model.json").read_text(encoding="utf-8"))
    cases = {case.case_id: case for case in read_cases(cases_dir / "cases.parquet")}
    declared = read_info(cases_dir / "dataset.json").measures
    weights = [model_dir / training["weights"] for training in model["trainings"]]
    # A prediction in the work folder is used again only if model, data and code are the same. The plan counts beside
    # the weights: how they predict and what the classes are called is said there.
    files = [case.digest for case in cases.values()]
    code = code_digest([__name__])
    digest = digest_of([files_digest(*weights), model["plan"], index["cases"], files, code, declared])
    requests = _requests(
        plan,
        cases,
        index["cases"],
        model_dir,
        model["trainings"],
        index_path.parents[1] / index["folder"],
        work_dir / f"{plan.dataset}-{plan.entry}-{digest[:12]}",
        declared,
    )
    scored = map_cases(_predict_and_score, requests, f"evaluate {plan.entry}", num_gpus=min(1, num_gpus()))
    for request in requests:
        for made in (request.path, *request.probability_paths().values()):
            target = out_dir / "predictions" / request.split / made.name
            target.parent.mkdir(parents=True, exist_ok=True)
            link(made, target)
    rows = [row for rows in scored for row in rows]
    write_scores(out_dir / "cases.parquet", rows, declared)
    write_text(out_dir / "metrics.json", json.dumps(_metrics(rows, declared), indent=2) + "\n")


def _requests(
    plan: Plan,
    cases: dict[str, Case],
    prepared: Sequence[dict[str, Any]],
    model_dir: Path,
    trainings: Sequence[dict[str, Any]],
    prepared_dir: Path,
    work_dir: Path,
    declared: tuple[str, ...],
) -> list[_Prediction]:
    requests = []
    for seed in plan.seeds:
        weights = {item["fold"]: str(model_dir / item["weights"]) for item in trainings if item["seed"] == seed}
        suffix = f"_seed{seed}" if len(plan.seeds) > 1 else ""
        for item in prepared:
            is_test = item["split"] == "test"
            if not is_test and item["fold"] not in weights:
                continue  # its fold is not part of this study
            split = TEST if is_test else OUT_OF_FOLD
            requests.append(
                _Prediction(
                    case=cases[item["case_id"]],
                    prepared_path=str(prepared_dir / item["file"]),
                    weights=tuple(weights.values()) if is_test else (weights[item["fold"]],),
                    split=split,
                    fold=None if is_test else item["fold"],
                    seed=seed,
                    labels=plan.labels,
                    ignore_label=plan.ignore_label,
                    tolerance_mm=plan.tolerance_mm,
                    declared=declared,
                    folder=work_dir / split,
                    name=f"{item['case_id']}{suffix}",
                )
            )
    return requests


def _predict_and_score(request: _Prediction) -> list[dict[str, Any]]:
    if request.rows_path.exists():
        finished: list[dict[str, Any]] = json.loads(request.rows_path.read_text(encoding="utf-8"))
        return finished
    import torch

    from pipelines.inference.predictor import predict_case

    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = [Path(path) for path in request.weights]
    probability_paths, scan = request.probability_paths(), request.case.image_paths[0]
    prediction = predict_case(Path(request.prepared_path), weights, device, bool(probability_paths))
    request.folder.mkdir(parents=True, exist_ok=True)
    write_label(request.path, prediction.label, scan)
    for value, path in probability_paths.items():
        assert prediction.probabilities is not None
        write_label(path, prediction.probabilities[value], scan, np.uint16)
    rows = []
    if request.case.label_path is not None:
        reference, spacing_mm = read_case_label(request.case)
        objects = read_case_objects(request.case) if request.declared else None
        origin = {
            "case_id": request.case.case_id,
            "patient": request.case.patient,
            "split": request.split,
            "fold": request.fold,
            "seed": request.seed,
            "fallback": "; ".join(prediction.fallbacks) or None,
        }
        scores = score_case(
            prediction.label,
            reference,
            request.labels,
            spacing_mm,
            request.tolerance_mm,
            request.ignore_label,
            request.declared,
            objects,
            prediction.probabilities,
        )
        rows = [origin | row for row in scores]
    write_text(request.rows_path, json.dumps(rows) + "\n")
    return rows


def _metrics(rows: list[dict[str, Any]], declared: Sequence[str]) -> dict[str, Any]:
    """Mean foreground Dice per split, and per class, and declared measures; None where nothing is defined."""
    metrics: dict[str, Any] = {}
    for split in (OUT_OF_FOLD, TEST):
        of_split = [row for row in rows if row["split"] == split]
        if of_split:
            classes = dict.fromkeys(row["class_name"] for row in of_split)
            metrics[split] = {
                "dice": _mean(case_means(of_split, "dice").values()),
                "num_cases": len({row["case_id"] for row in of_split}),
                **{
                    f"dice_{name}": _mean(row["dice"] for row in of_split if row["class_name"] == name)
                    for name in classes
                },
                **{key: _mean(case_means(of_split, key).values()) for key in declared},
            }
    return metrics


def _mean(values: Any) -> float | None:
    kept = [value for value in values if value == value]
    return sum(kept) / len(kept) if kept else None
