from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.tasks import graph, segmentation
from pipelines.tracking.events import epochs, read_events
from pipelines.training.folds import read_index
from pipelines.training.loop import train
from pipelines.tuning.trial import FAILED_SCORE, TrialRequest, train_trial
from tests.tiny_graph import TinyGraphStudy
from tests.tiny_plan import TinyStudy


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a trial reports to Tune."""
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.tune.report", reports.append)
    return reports


@pytest.fixture
def request_of_fold_0(tiny_study: TinyStudy, tmp_path: Path) -> TrialRequest:
    cases, fold = segmentation.inner_split(tiny_study.prepared_cases(), 0)
    return TrialRequest(
        family="segmentation",
        plan=json.loads(tiny_study.plan_path().read_text(encoding="utf-8")),
        cases=cases,
        fold=fold,
        folder=str(tiny_study.root),
        trials_dir=str(tmp_path),
        name="nnunet_tiny fold 0",
        seed=5,
    )


def test_a_request_comes_back_from_its_file(request_of_fold_0: TrialRequest, tmp_path: Path) -> None:
    request_of_fold_0.write(tmp_path / "request.json")
    assert TrialRequest.read(tmp_path / "request.json") == request_of_fold_0


def test_a_trial_is_a_training_with_its_settings_in_place(
    request_of_fold_0: TrialRequest, tmp_path: Path, reported: list[dict[str, Any]]
) -> None:
    settings = {"optimizer": "adamw", "learning_rate": 0.003, "network.negative_slope": 0.2}
    end = train_trial(request_of_fold_0, settings, tmp_path / "trial", num_threads=1)
    plan = request_of_fold_0.plan
    plan = plan | {"network": plan["network"] | {"negative_slope": 0.2}}
    optimizer = plan["optimizer"] | {"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.01}
    task = segmentation.training(plan, request_of_fold_0.cases, 0, 5, Path(request_of_fold_0.folder))
    plain = train(
        task,
        run_dir=tmp_path / "plain",
        seed=5,
        optimizer=optimizer,
        schedule=plan["schedule"],
        clip_norm=plan["clip_norm"],
        budget=plan["budget"],
        device=torch.device("cpu"),
        description="plain",
        shows_progress=False,
    )
    scores = [row["val_pseudo_dice"] for row in plain.history]
    assert [(report["epoch"], report["score"]) for report in reported] == list(enumerate(scores, start=1))
    assert (end["epoch"], end["score"], end["outcome"], end["reason"]) == (2, scores[-1], "finished", "")
    log = read_events(tmp_path / "trial" / "events.jsonl")
    assert log[0]["params"] == {"optimizer": "adamw", "learning_rate": 0.003, "network.negative_slope": 0.2}
    assert len(epochs(log)) == 2


def test_a_finished_trial_is_not_trained_again(
    request_of_fold_0: TrialRequest, tmp_path: Path, reported: list[dict[str, Any]]
) -> None:
    first = train_trial(request_of_fold_0, {"momentum": 0.5}, tmp_path / "trial", num_threads=1)
    events = (tmp_path / "trial" / "events.jsonl").read_bytes()
    reported.clear()
    assert train_trial(request_of_fold_0, {"momentum": 0.5}, tmp_path / "trial", num_threads=1) == first
    assert reported == []
    assert (tmp_path / "trial" / "events.jsonl").read_bytes() == events


def test_settings_that_do_not_train_score_last_and_say_why(
    request_of_fold_0: TrialRequest, tmp_path: Path, reported: list[dict[str, Any]]
) -> None:
    request = TrialRequest(**vars(request_of_fold_0) | {"plan": request_of_fold_0.plan | {"clip_norm": 1e30}})
    end = train_trial(request, {"learning_rate": 1e30}, tmp_path / "trial", num_threads=1)
    assert (end["score"], end["outcome"]) == (FAILED_SCORE, "failed")
    assert "nnunet_tiny fold 0" in end["reason"]
    assert "lower the learning rate" in end["reason"]
    assert end["epoch"] == len(reported)


def test_a_trial_opens_no_file_of_the_fold_it_must_not_see(
    request_of_fold_0: TrialRequest, tmp_path: Path, reported: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.preprocessing.shards import open_case

    opened: list[str] = []

    def noting(path: Path) -> Any:
        opened.append(path.stem)
        return open_case(path)

    monkeypatch.setattr("pipelines.tasks.segmentation_training.open_case", noting)
    train_trial(request_of_fold_0, {}, tmp_path / "trial", num_threads=1)
    assert sorted(opened) == ["b2", "b3"], "b0 and b1 are fold 0, t0 and t1 are for the test"


def test_a_graph_trial_scores_by_the_epoch_whose_weights_it_keeps(
    tiny_graph_study: TinyGraphStudy, tmp_path: Path, reported: list[dict[str, Any]]
) -> None:
    entry = tiny_graph_study.params.architectures[0]
    cases, _ = read_index(tiny_graph_study.index_path(entry))
    inner, fold = graph.inner_split(cases, 0)
    plan = json.loads(tiny_graph_study.plan_path(entry).read_text(encoding="utf-8")) | {"keeps_best": True}
    request = TrialRequest("graph", plan, inner, fold, str(tiny_graph_study.root), str(tmp_path), "graph", 0)
    settings = {"optimizer": "adam", "learning_rate_factor": 2.0, "weight_decay_factor": 0.5}
    end = train_trial(request, settings, tmp_path / "trial", num_threads=1)
    scores = [report["score"] for report in reported]
    assert (end["outcome"], end["epoch"]) == ("finished", len(scores))
    assert end["score"] == max(scores)
