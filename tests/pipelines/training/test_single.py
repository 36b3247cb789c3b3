from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.atomic_files import DiskFullError
from pipelines.tasks.segmentation_training import SegmentationTraining
from pipelines.tracking.events import RunDescription, read_events
from pipelines.tracking.follow import following
from pipelines.training.folds import TrainingRequest, collect_models
from pipelines.training.single import run_training
from tests.full_disk import put_on_full_disk
from tests.tiny_plan import TinyStudy

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(request: TrainingRequest, **more: Any) -> None:
    run_training(request, num_threads=1, shows_progress=False, device=CPU, **more)


def kinds(request: TrainingRequest) -> list[str]:
    return [event["kind"] for event in read_events(request.events_path)]


@pytest.fixture(scope="module")
def finished(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> TrainingRequest:
    """A training that nothing interrupted."""
    request = tiny_study.requests(tmp_path_factory.mktemp("finished"))[0]
    run(request)
    return request


def assert_same_weights(left: TrainingRequest, right: TrainingRequest) -> None:
    weights = load_file(left.weights_path), load_file(right.weights_path)
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_training_leaves_weights_summary_and_events(finished: TrainingRequest, tiny_study: TinyStudy) -> None:
    assert kinds(finished) == ["run_start", "epoch", "epoch", "run_end"]
    start, first, last, end = read_events(finished.events_path)
    assert (start["dataset"], start["entry"], start["fold"], start["seed"]) == ("blobs", "nnunet_tiny", 0, 0)
    assert start["digest"] == finished.digest
    assert (first["step"], last["step"], end["status"]) == (2, 4, "finished")
    assert {"train/loss", "train/learning_rate", "val/loss", "val/pseudo_dice", "val/dice_cube"} <= set(last["metrics"])
    summary = json.loads((Path(finished.run_dir) / "summary.json").read_text(encoding="utf-8"))
    weights = load_file(finished.weights_path)
    assert summary["num_parameters"] == sum(tensor.numel() for tensor in weights.values())
    assert (summary["num_steps"], summary["stopped_early"], len(summary["history"])) == (4, False, 2)
    assert summary["seconds"] == end["seconds"]


def test_the_weights_fit_the_network_of_the_plan(finished: TrainingRequest, tiny_study: TinyStudy) -> None:
    task = SegmentationTraining(tiny_study.plan(), finished.cases, 0, 0, Path(finished.folder))
    torch.manual_seed(finished.seed)
    network = task.build_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(load_file(finished.weights_path))
    assert any(not torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_the_number_of_threads_is_set(tiny_study: TinyStudy, tmp_path: Path) -> None:
    request = tiny_study.requests(tmp_path, budget=tiny_study.plan().budget | {"steps": 1})[0]
    run_training(request, num_threads=2, shows_progress=False, device=CPU)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", ["weights.safetensors", "summary.json", "state.pt"])
def test_after_a_full_disk_the_same_call_ends_with_the_same_weights(
    tiny_study: TinyStudy, tmp_path: Path, finished: TrainingRequest, name: str
) -> None:
    request = tiny_study.requests(tmp_path)[0]
    put_on_full_disk(Path(request.run_dir) / name)
    with pytest.raises(DiskFullError, match=f"{name}: disk full while writing"):
        run(request)
    assert not request.weights_path.exists()
    assert [path.name for path in Path(request.run_dir).iterdir() if path.name.startswith(".")] == []
    run(request)
    assert_same_weights(request, finished)
    assert kinds(request)[-1] == "run_end"
    steps = [event["step"] for event in read_events(request.events_path) if event["kind"] == "epoch"]
    assert steps[-2:] == [2, 4]


def test_after_an_interruption_the_same_call_ends_with_the_same_weights(
    tiny_study: TinyStudy, tmp_path: Path, finished: TrainingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tiny_study.requests(tmp_path)[0]
    batch = SegmentationTraining.batch

    def interrupting(self: SegmentationTraining, step: int, *more: Any) -> Any:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return batch(self, step, *more)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTraining, "batch", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run(request)
    assert "run_end" not in kinds(request)
    assert not request.weights_path.exists()
    run(request)
    assert kinds(request) == ["run_start", "epoch", "epoch", "run_end"]
    assert_same_weights(request, finished)


def test_an_unknown_family_is_told(tiny_study: TinyStudy, tmp_path: Path) -> None:
    request = dataclasses.replace(tiny_study.requests(tmp_path)[0], family="segmentaton")
    with pytest.raises(
        ValueError, match=r"family 'segmentaton' is not known; params.yaml takes one of: graph, segmentation"
    ):
        run(request)


@pytest.mark.slow
def test_with_mlflow_out_of_reach_the_training_finishes_and_one_line_tells(
    tiny_study: TinyStudy, tmp_path: Path, finished: TrainingRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    request = tiny_study.requests(tmp_path)[0]
    description = RunDescription(
        "blobs", "nnunet_tiny", request.digest, {"name": "blobs", "digest": "d", "source": "s"}
    )
    with following(
        description, [request.events_path], "http://127.0.0.1:9", work_dir=tmp_path / "tracking", patience_s=300
    ):
        run(request)
        assert request.weights_path.exists()
    assert_same_weights(request, finished)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("MLflow at http://127.0.0.1:9 could not be told (")
    assert line.endswith("training is not affected, run `repro sync` later")


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_collapse_is_told_in_events_and_in_the_model_unless_it_is_turned_off(
    tiny_study: TinyStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_answered: bool
) -> None:
    monkeypatch.setattr("pipelines.training.collapse.MIN_STEPS", 2)
    monkeypatch.setattr(SegmentationTraining, "validate", lambda *_: {"loss": 1.0, "pseudo_dice": 0.0})
    request = tiny_study.requests(tmp_path, rescue=is_answered)[0]
    run(request)
    told = ["collapse"] if is_answered else []
    assert kinds(request) == ["run_start", "epoch", *told, "epoch", "run_end"]
    collect_models([request], tmp_path / "model")
    (training,) = json.loads((tmp_path / "model" / "model.json").read_text(encoding="utf-8"))["trainings"]
    assert [(item["epoch"], item["step"], item["optimizer"]["momentum"]) for item in training["rescues"]] == (
        [(0, 2, 0.95)] if is_answered else []
    )
    assert training["optimizer"]["momentum"] == 0.99


def test_a_study_answers_a_collapse_by_default(tiny_study: TinyStudy) -> None:
    assert tiny_study.plan().rescue
