from __future__ import annotations

import dataclasses
import html
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.evaluation.case_scores import write_scores
from pipelines.params import RaySettings, Study, Tracking, read_params
from pipelines.reporting import compare
from pipelines.reporting.compare import DatasetFolders, compare_entries, result_note, tell_ranking
from pipelines.reporting.comparison import Comparison
from pipelines.tasks import segmentation
from pipelines.tracking.events import RunDescription
from pipelines.tuning.results import pass_on
from tests.tiny_plan import ENTRY, FOLDS, TinyStudy, one_after_the_other

OTHER = "unet_3d_tiny"
REFERENCE = "intensity_classifier"
SEGMENTATION = Comparison.of_task(segmentation)
DICE = {ENTRY: 0.75, OTHER: 0.5}
COLLAPSE = "The score was 0 & stayed there."


def score(case_id: str, dice: float) -> dict[str, Any]:
    fold = FOLDS.get(case_id)
    origin = {"case_id": case_id, "patient": case_id, "class_name": "cube", "fold": fold, "seed": 0}
    measures = {"dice": dice, "iou": dice, "hd95_mm": 2.0, "assd_mm": 1.0, "nsd": dice}
    counts = {"reference_voxels": 216, "predicted_voxels": 216}
    return origin | measures | counts | {"split": "test" if fold is None else "validation"}


@pytest.fixture(scope="module")
def results(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`models/` and `results/` of two entries, as training and evaluation would leave them."""
    root = tmp_path_factory.mktemp("compared")
    for entry, dice in DICE.items():
        model_dir, result_dir = root / "models" / entry, root / "results" / entry
        model_dir.mkdir(parents=True)
        pass_on({"name": "sgd"}, {"name": "polynomial"}, root / "tuned" / entry)
        plan = json.loads(tiny_study.plan_path(entry).read_text(encoding="utf-8"))
        training = {"seed": 0, "num_parameters": 1000, "seconds": 30.0, "optimizer": plan["optimizer"]}
        rescues = [{"epoch": 9, "step": 1000, "optimizer": plan["optimizer"], "message": COLLAPSE}]
        trainings = [
            {"fold": fold, "rescues": rescues if entry == OTHER and fold else []} | training for fold in (0, 1)
        ]
        model = {"digest": "d", "plan": plan, "trainings": trainings, "cases": []}
        (model_dir / "model.json").write_text(json.dumps(model), encoding="utf-8")
        history = [
            {"fold": fold, "seed": 0, "epoch": epoch, "step": 2 * epoch + 2, "train_loss": 0.5, "val_pseudo_dice": dice}
            for fold in (0, 1)
            for epoch in (0, 1)
        ]
        pq.write_table(pa.Table.from_pylist(history), model_dir / "history.parquet")
        write_scores(result_dir / "cases.parquet", [score(case, dice) for case in (*FOLDS, "t0")])
        for case in FOLDS:
            target = result_dir / "predictions" / "validation" / f"{case}.nii.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tiny_study.root / "data" / f"{case}_label.nii.gz", target)
    return root


def compared(study: TinyStudy, params: Study, results: Path, out: Path) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        one_after_the_other(patch)
        made = {kind: results / kind for kind in ("tuned", "models", "results")}
        folders = DatasetFolders(study.folder("cases"), study.folder("fingerprints"), study.folder("plans"), **made)
        compare_entries(params, folders, out)
    return json.loads((out / "ranking.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tiny_study: TinyStudy, results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports") / "blobs"
    compared(tiny_study, tiny_study.params, results, out)
    return out


def test_entries_stand_beside_the_intensity_classifier(report: Path) -> None:
    ranking = json.loads((report / "ranking.json").read_text(encoding="utf-8"))
    ranked = {row["entry"]: row for row in ranking}
    assert set(ranked) == {ENTRY, OTHER, REFERENCE}
    assert {entry: row["rank"] for entry, row in ranked.items()} == {ENTRY: 1, OTHER: 2, REFERENCE: None}
    assert {entry: ranked[entry]["score"] for entry in DICE} == DICE
    assert ranked[REFERENCE]["is_reference"]
    # The cube is ten deviations of the noise brighter than the rest.
    assert ranked[REFERENCE]["score"] > 0.9
    assert ranked[ENTRY]["architecture"] == "segmentation/nnunet"
    assert (ranked[ENTRY]["num_parameters"], ranked[ENTRY]["train_seconds"]) == (1000, 60)
    assert ranked[ENTRY]["test"]["score"] == 0.75


def test_a_collapse_is_told_in_ranking_page_and_note(report: Path) -> None:
    ranking = json.loads((report / "ranking.json").read_text(encoding="utf-8"))
    ranked = {row["entry"]: row for row in ranking}
    assert ranked[ENTRY]["rescues"] == []
    assert ranked[OTHER]["rescues"] == [f"fold 1 seed 0 had collapsed. {COLLAPSE}"]
    page = (report / "index.html").read_text(encoding="utf-8")
    assert page.count(f"{OTHER}, fold 1 seed 0 had collapsed. {html.escape(COLLAPSE)}") == 1
    assert "had collapsed" not in result_note(ranked[ENTRY], ranking, SEGMENTATION)
    note = result_note(ranked[OTHER], ranking, SEGMENTATION)
    assert note.split("\n\n")[1] == f"Training fold 1 seed 0 had collapsed. {COLLAPSE}"


def test_the_report_is_whole(report: Path) -> None:
    for name in ("index.html", "ranking.md", "learning_curves.csv", "figures/case_best_axial.png"):
        assert (report / name).stat().st_size > 0, name
    page = (report / "index.html").read_text(encoding="utf-8")
    assert ENTRY in page
    assert "dvc repro" in page
    assert (report / "learning_curves.csv").read_text(encoding="utf-8").count("\n") == 1 + 2 * 4


def test_the_study_in_the_page_is_the_study(tiny_study: TinyStudy, report: Path, tmp_path: Path) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    settings = page.split("params.yaml of this study</summary><pre>")[1].split("</pre>")[0]
    (tmp_path / "params.yaml").write_text(html.unescape(settings), encoding="utf-8")
    elsewhere = {"ray": RaySettings(), "tracking": Tracking()}
    assert read_params(tmp_path / "params.yaml") == dataclasses.replace(tiny_study.params, **elsewhere)


def test_a_dropped_entry_is_not_in_the_table_although_its_results_are_there(
    tiny_study: TinyStudy, results: Path, tmp_path: Path
) -> None:
    params = dataclasses.replace(tiny_study.params, architectures=[OTHER])
    ranking = compared(tiny_study, params, results, tmp_path)
    assert {row["entry"]: row["rank"] for row in ranking} == {OTHER: 1, REFERENCE: None}
    for name in ("ranking.json", "ranking.md", "index.html", "learning_curves.csv"):
        assert ENTRY not in (tmp_path / name).read_text(encoding="utf-8"), name


def row(entry: str, rank: int | None, score: float | None, **more: Any) -> dict[str, Any]:
    bounds = {"score_low": None, "score_high": None}
    behind = None
    if score is not None:
        bounds = {"score_low": score - 0.1, "score_high": score + 0.1}
        behind = {"difference": 0.3, "low": 0.1, "high": 0.5}
    classes = {"cube": {"dice": score, "iou": score, "hd95_mm": 2.0, "assd_mm": 1.0, "nsd": score}}
    return {
        "rank": rank, "entry": entry, "score": score, **bounds, "measure": "dice", "num_cases": 4, "num_patients": 3,
        "classes": classes, "num_cases_left_out": 0, "score_per_seed": {}, "score_std_over_seeds": None,
        "behind_first": behind, "test": None, "tuning": None,
    } | more  # fmt: skip


def test_the_note_says_place_figures_and_verdict() -> None:
    ranking = [row("a", 1, 0.8), row("intensity", None, 0.6), row("b", 2, 0.5)]
    note = result_note(ranking[2], ranking, SEGMENTATION)
    first, *_ = note.split("\n\n")
    assert first == "**b** is number 2 of 2: Dice 0.500 (95 % interval 0.400 to 0.600) over 4 cases."
    assert "a leads with a mean Dice of 0.800" in note
    assert "| 2 | b |" in note


def test_the_note_of_an_entry_without_a_score_has_dashes() -> None:
    ranking = [row("a", 1, None)]
    assert result_note(ranking[0], ranking, SEGMENTATION).startswith(
        "**a** is number 1 of 1: Dice – (95 % interval – to –) over 4"
    )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def remember(*arguments: Any) -> bool:
        calls.append(arguments)
        return True

    monkeypatch.setattr(compare, "tell_results", remember)
    return calls


def test_mlflow_is_told_the_results_of_every_entry(
    tiny_study: TinyStudy, results: Path, report: Path, told: list[tuple[Any, ...]]
) -> None:
    assert tell_ranking(tiny_study.params, results / "models", report)
    by_entry = {arguments[0].entry: arguments for arguments in told}
    assert set(by_entry) == {ENTRY, OTHER}
    description, metrics, artifacts, note, uri = by_entry[ENTRY]
    assert isinstance(description, RunDescription)
    assert (description.experiment, description.digest, uri) == ("blobs", "d", "none")
    assert metrics == {
        "cv/dice": 0.75, "cv/dice_low": 0.75, "cv/dice_high": 0.75, "cv/dice_cube": 0.75, "test/dice": 0.75
    }  # fmt: skip
    assert {path.name for path in artifacts} >= {"index.html", "ranking.md"}
    assert all(path.exists() for path in artifacts)
    assert note.startswith(f"**{ENTRY}** is number 1 of 2: Dice 0.750")


def test_scores_that_do_not_exist_are_not_told(
    tiny_study: TinyStudy, results: Path, tmp_path: Path, told: list[tuple[Any, ...]]
) -> None:
    nothing = row(ENTRY, 1, None, test={"score": None})
    (tmp_path / "ranking.json").write_text(json.dumps([nothing]), encoding="utf-8")
    assert tell_ranking(tiny_study.params, results / "models", tmp_path)
    assert told[0][1] == {}


def test_when_mlflow_cannot_be_told_it_is_asked_once(
    tiny_study: TinyStudy, results: Path, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(compare, "tell_results", lambda *arguments: asked.append(arguments))
    assert tell_ranking(tiny_study.params, results / "models", report) is False
    assert len(asked) == 1
