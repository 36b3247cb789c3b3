from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.tracking.events import EventLog
from pipelines.training import folds
from pipelines.training.folds import TrainingRequest, collect_models, train_all, training_requests
from tests.tiny_plan import ENTRY, TinyStudy


def test_there_is_a_request_for_every_fold_and_seed(tiny_study: TinyStudy, tmp_path: Path) -> None:
    requests = tiny_study.requests(tmp_path, seeds=[3, 5])
    assert [(request.fold, request.seed) for request in requests] == [(0, 3), (1, 3), (0, 5), (1, 5)]
    assert len({request.run_dir for request in requests}) == 4
    assert len({request.digest for request in requests}) == 1
    assert requests[1].name == f"{ENTRY} fold 1 seed 3"
    assert Path(requests[1].run_dir).name == "fold1_seed3"
    assert Path(requests[1].run_dir).is_absolute()
    assert Path(requests[1].run_dir).parent.name == f"blobs-nnunet-{requests[1].digest[:12]}"
    assert all(Path(request.folder, case["file"]).exists() for request in requests for case in request.cases)


def test_the_tuned_settings_replace_the_planned_ones(tiny_study: TinyStudy, tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    tuned = "{num_trials: 0, optimizer: {name: adamw, learning_rate: 0.5}, schedule: {name: cosine}}"
    best.write_text(tuned, encoding="utf-8")
    paths = (tiny_study.plan_path(), tiny_study.index_path())
    request = training_requests("segmentation", *paths, best, tmp_path)[0]
    assert request.plan["optimizer"] == {"name": "adamw", "learning_rate": 0.5}
    assert request.plan["schedule"] == {"name": "cosine"}
    assert request.digest != tiny_study.requests(tmp_path)[0].digest


def test_each_fold_is_trained_by_the_settings_that_its_own_search_found(tiny_study: TinyStudy, tmp_path: Path) -> None:
    plan = json.loads(tiny_study.plan_path().read_text(encoding="utf-8"))
    slow, fast = ({"name": "adamw", "learning_rate": rate, "weight_decay": 0.0} for rate in (0.1, 0.2))
    found = {
        0: {"optimizer": slow, "schedule": plan["schedule"]},
        1: {"optimizer": fast, "schedule": plan["schedule"], "network": {"negative_slope": 0.5}},
    }

    def requests(folds: dict[int, Any]) -> list[TrainingRequest]:
        best = tmp_path / "best.yaml"
        best.write_text(yaml.safe_dump({"num_trials": 2, "folds": folds}), encoding="utf-8")
        return training_requests("segmentation", tiny_study.plan_path(), tiny_study.index_path(), best, tmp_path)

    first, second = requests(found)
    assert (first.plan["optimizer"], second.plan["optimizer"]) == (slow, fast)
    assert first.plan["network"] == plan["network"]
    assert second.plan["network"] == plan["network"] | {"negative_slope": 0.5}
    assert first.digest == second.digest
    assert Path(first.run_dir).parent != Path(second.run_dir).parent

    changed = requests(found | {1: {"optimizer": slow, "schedule": plan["schedule"]}})
    assert changed[0].run_dir == first.run_dir, "what is found for one fold retrains no other"
    assert changed[0].digest != first.digest


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seeds": [0, 1]},
        {"folds": [0]},
        {"inference": {"overlap": 0.75, "is_mirrored": True}},
        {"tolerance_mm": 5.0},
        {"reasons": []},
        {"overrides": {"learning_rate": 0.01}},
    ],
)
def test_what_does_not_train_keeps_the_folder(tiny_study: TinyStudy, tmp_path: Path, changes: dict[str, Any]) -> None:
    before, after = tiny_study.requests(tmp_path)[0], tiny_study.requests(tmp_path, **changes)[0]
    assert (after.digest, after.run_dir) == (before.digest, before.run_dir)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 1},
        {"clip_norm": 1.0},
        {"mirror_axes": []},
        {"foreground_fraction": 0.5},
        {"is_batch_dice": True},
        {"labels": {"background": 0, "box": 1}},
        {"sources": {"a.py": "1"}},
        {"budget": {"kind": "steps", "steps": 5}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_trains_changes_the_folder(tiny_study: TinyStudy, tmp_path: Path, changes: dict[str, Any]) -> None:
    before, after = tiny_study.requests(tmp_path)[0], tiny_study.requests(tmp_path, **changes)[0]
    assert after.digest != before.digest
    assert after.run_dir != before.run_dir


def test_the_folder_changes_with_the_content_of_a_case_and_not_with_its_place(
    tiny_study: TinyStudy, tmp_path: Path
) -> None:
    digest = tiny_study.requests(tmp_path / "a")[0].digest
    prepared = tmp_path / "prepared"
    shutil.copytree(tiny_study.folder("prepared"), prepared)
    moved, changed = prepared / "index" / f"{ENTRY}.json", prepared / "index" / "changed.json"
    index = json.loads(moved.read_text(encoding="utf-8"))
    index["cases"][0]["digest"] = "0"
    changed.write_text(json.dumps(index), encoding="utf-8")
    best = tmp_path / "a" / "tuned" / ENTRY / "best.yaml"
    digests = [
        training_requests("segmentation", tiny_study.plan_path(), path, best, tmp_path)[0].digest
        for path in (moved, changed)
    ]
    assert digests[0] == digest
    assert digests[1] != digest


def request_in(folder: Path, fold: int, seed: int = 0, is_finished: bool = False) -> TrainingRequest:
    request = TrainingRequest(
        family="segmentation",
        plan={"entry": "a", "dataset": "d", "optimizer": {"learning_rate": fold + 1}, "schedule": {}, "network": {}},
        cases=[{"case_id": "c", "digest": "1", "split": "train", "fold": 0, "file": "x", "patient": "c"}],
        folder=str(folder),
        run_dir=str(folder / f"fold{fold}_seed{seed}"),
        fold=fold,
        seed=seed,
        digest="d1",
    )
    if is_finished:
        finish(request)
    return request


def finish(request: TrainingRequest) -> None:
    EventLog(request.events_path).append("run_end", status="finished", seconds=1.0)
    history = [{"epoch": 0, "step": 2, "train_loss": request.fold + 0.5}]
    summary = {
        "num_parameters": 7,
        "num_steps": 2,
        "seconds": 1.0,
        "stopped_early": False,
        "rescues": [],
        "history": history,
    }
    (Path(request.run_dir) / "summary.json").write_text(json.dumps(summary | {"history": history}), encoding="utf-8")
    request.weights_path.write_bytes(f"weights {request.fold}".encode())


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What `train_all` started: ("here", name, threads) or ("ray", names, workers)."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(folds, "num_local_gpus", lambda: 0)
    monkeypatch.setattr(folds, "num_local_cpus", lambda: 2)
    monkeypatch.setattr(
        "pipelines.training.single.run_training",
        lambda request, num_threads, shows_progress: calls.append(("here", request.name, num_threads)),
    )
    monkeypatch.setattr(
        "pipelines.training.ray_worker.train_on_ray",
        lambda requests, workers: calls.append(("ray", [request.name for request in requests], workers)),
    )
    return calls


def test_a_single_training_runs_here_with_all_processors(tmp_path: Path, ran: list[Any]) -> None:
    train_all([request_in(tmp_path, 0)], workers=1)
    assert ran == [("here", "a fold 0 seed 0", 2)]


def test_two_trainings_go_to_ray(tmp_path: Path, ran: list[Any]) -> None:
    train_all([request_in(tmp_path, fold) for fold in (0, 1)], workers=1)
    assert ran == [("ray", ["a fold 0 seed 0", "a fold 1 seed 0"], 1)]


def test_two_trainings_on_one_processor_run_here(
    tmp_path: Path, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "num_local_cpus", lambda: 1)
    train_all([request_in(tmp_path, fold) for fold in (0, 1)], workers=1)
    assert ran == [("here", "a fold 0 seed 0", 1), ("here", "a fold 1 seed 0", 1)]


def test_two_trainings_on_one_accelerator_run_here(
    tmp_path: Path, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folds, "num_local_gpus", lambda: 1)
    train_all([request_in(tmp_path, fold) for fold in (0, 1)], workers=1)
    assert [call[0] for call in ran] == ["here", "here"]


def test_several_workers_and_a_cluster_are_for_ray(
    tmp_path: Path, ran: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_all([request_in(tmp_path, 0)], workers=2)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    train_all([request_in(tmp_path, 0)], workers=1)
    assert ran == [("ray", ["a fold 0 seed 0"], 2), ("ray", ["a fold 0 seed 0"], 1)]


def test_finished_trainings_are_not_run_again(tmp_path: Path, ran: list[Any]) -> None:
    requests = [request_in(tmp_path, 0, is_finished=True), request_in(tmp_path, 1)]
    train_all(requests, workers=1)
    assert ran == [("here", "a fold 1 seed 0", 2)]
    finish(requests[1])
    train_all(requests, workers=2)
    assert len(ran) == 1


def test_the_model_folder_has_all_that_later_stages_read(tmp_path: Path) -> None:
    requests = [request_in(tmp_path / "work", fold, seed, is_finished=True) for seed in (0, 4) for fold in (0, 1)]
    out = tmp_path / "model"
    collect_models(requests, out)
    names = [f"fold{fold}_seed{seed}" for seed in (0, 4) for fold in (0, 1)]
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == sorted(
        ["model.json", "history.parquet", *(f"{n}.safetensors" for n in names), *(f"events/{n}.jsonl" for n in names)]
    )
    assert (out / "fold1_seed4.safetensors").read_bytes() == b"weights 1"
    model = json.loads((out / "model.json").read_text(encoding="utf-8"))
    assert (model["family"], model["digest"], model["plan"]) == ("segmentation", "d1", requests[0].plan)
    assert model["cases"] == [{"case_id": "c", "digest": "1", "split": "train", "fold": 0}]
    assert [(item["fold"], item["seed"], item["weights"]) for item in model["trainings"]] == [
        (0, 0, "fold0_seed0.safetensors"),
        (1, 0, "fold1_seed0.safetensors"),
        (0, 4, "fold0_seed4.safetensors"),
        (1, 4, "fold1_seed4.safetensors"),
    ]
    assert model["trainings"][0]["num_parameters"] == 7
    assert model["trainings"][0]["rescues"] == []
    assert "history" not in model["trainings"][0]
    assert [item["optimizer"] for item in model["trainings"]] == [{"learning_rate": 1}, {"learning_rate": 2}] * 2
    rows = pq.read_table(out / "history.parquet").to_pylist()
    assert [(row["fold"], row["seed"], row["train_loss"]) for row in rows] == [
        (0, 0, 0.5),
        (1, 0, 1.5),
        (0, 4, 0.5),
        (1, 4, 1.5),
    ]
