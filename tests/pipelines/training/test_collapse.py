from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.training import collapse
from pipelines.training.checkpoint import load_state
from pipelines.training.collapse import has_collapsed, is_due, redraw_weights, rescue
from pipelines.training.loop import TrainingResult
from tests.pipelines.training.fake_task import FakeTask, fit, fit_as_rank

SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.99, "weight_decay": 0.0}
ADAMW = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.0}
STEPS, JUDGED_AT = 24, 8
ZEROS = [{"pseudo_dice": 0.0}] * 6
ANSWER = "the weights were drawn anew and the momentum lowered from 0.99 to 0.95."
SENTENCE = f"The pseudo dice was still 0 after 8 steps, so {ANSWER}"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainings of 24 steps in epochs of 4 are judged after the second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(collapse, "MIN_STEPS", JUDGED_AT)
    yield
    torch.set_num_threads(before)


class Events:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def append(self, kind: str, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})


def answered(run_dir: Path, scores: list[dict[str, float]] = ZEROS, **changes: Any) -> TrainingResult:
    task = FakeTask(scores=scores, before_batch=changes.pop("before_batch", lambda step: None))
    return fit(task, run_dir, **{"steps": STEPS, "optimizer": SGD, "answers_collapse": True} | changes)


def assert_same(result: TrainingResult, reference: TrainingResult) -> None:
    assert all(torch.equal(result.network[name], tensor) for name, tensor in reference.network.items())
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in r.history] for r in (result, reference)]
    assert timeless[0] == timeless[1]
    assert result.rescues == reference.rescues


def group(run_dir: Path) -> dict[str, Any]:
    """Settings of the saved optimiser."""
    state = load_state(run_dir)
    assert state is not None
    return state["optimizer"]["param_groups"][0]


@pytest.mark.parametrize(
    ("share", "step", "expected"), [(0.1, 1000, True), (0.5, 999, False), (0.0999, 25_000, False), (1.0, 2000, True)]
)
def test_a_training_is_judged_after_a_tenth_of_its_budget_and_a_thousand_steps(
    monkeypatch: pytest.MonkeyPatch, share: float, step: int, expected: bool
) -> None:
    monkeypatch.undo()
    assert is_due(share, step) is expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"pseudo_dice": 0.0, "loss": 1.0}, True),
        ({"pseudo_dice": 1e-9}, False),
        ({"pseudo_dice": math.nan, "loss": 1.0}, False),
        ({"pseudo_dice": 0.2, "loss": math.nan}, True),
        ({"loss": 0.0}, False),
        ({}, False),
    ],
)
def test_a_score_of_exactly_0_or_a_loss_of_nan_is_a_collapse(scores: dict[str, float], expected: bool) -> None:
    assert has_collapsed(scores, "pseudo_dice") is expected


@pytest.mark.parametrize(
    ("optimizer", "gentler", "words"),
    [
        (SGD, {"momentum": 0.95}, "the momentum lowered from 0.99 to 0.95"),
        (SGD | {"momentum": 0.95}, {"learning_rate": 0.02}, "the learning rate lowered from 0.1 to 0.02"),
        (SGD | {"name": "adam"}, {"learning_rate": 0.02}, "the learning rate lowered from 0.1 to 0.02"),
        (SGD | {"name": "adamw", "decayed": ["*"]}, {"learning_rate": 0.02}, "the learning rate lowered"),
    ],
)
def test_the_answer_is_a_lower_momentum_or_a_fifth_of_the_rate(
    optimizer: dict[str, Any], gentler: dict[str, float], words: str
) -> None:
    answer = rescue(optimizer, {"pseudo_dice": 0.0}, "pseudo_dice", epoch=99, step=25_000)
    assert (answer["epoch"], answer["step"]) == (99, 25_000)
    assert answer["optimizer"] == optimizer | gentler
    assert answer["message"].startswith(
        "The pseudo dice was still 0 after 25,000 steps, so the weights were drawn anew"
    )
    assert words in answer["message"]


def test_a_loss_that_is_nan_is_what_the_sentence_says() -> None:
    message = rescue(SGD, {"loss": math.nan}, "pseudo_dice", epoch=0, step=1)["message"]
    assert message.startswith("The validation loss was NaN after 1 steps")


def test_weights_are_redrawn_in_place_by_seed_and_step() -> None:
    task = FakeTask()
    torch.manual_seed(3)
    network = task.build_network()
    parameters = list(network.parameters())
    drawn = [torch.cat([parameter.detach().flatten() for parameter in parameters])]
    for seed, step in ((3, 8), (3, 8), (3, 12), (4, 8)):
        redraw_weights(network, task, seed, step)
        drawn.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    assert torch.equal(drawn[1], drawn[2])
    assert all(not torch.equal(drawn[1], other) for other in (drawn[0], *drawn[3:]))


def test_a_collapse_is_answered_once_and_told_once(tmp_path: Path) -> None:
    log = Events()
    result = answered(tmp_path, event_log=log)
    expected = {"epoch": 1, "step": 8, "optimizer": SGD | {"momentum": 0.95}, "message": SENTENCE}
    assert result.rescues == [expected]
    assert [event["kind"] for event in log.events] == ["epoch", "epoch", "collapse", *["epoch"] * 4]
    assert log.events[2] == {"kind": "collapse", **expected}
    assert group(tmp_path)["momentum"] == 0.95
    assert [row["step"] for row in result.history] == [4, 8, 12, 16, 20, 24]
    assert answered(tmp_path).rescues == [expected]


def test_the_network_after_it_is_trained_as_one_with_fresh_weights_and_optimizer(tmp_path: Path) -> None:
    weights: list[Tensor] = []

    class Recording(FakeTask):
        def loss_terms(self, network: nn.Module, *arguments: Any) -> Any:
            weights.append(next(network.parameters()).detach().clone())
            return super().loss_terms(network, *arguments)

    task = Recording(scores=ZEROS, dropout_probability=0)
    fit(task, tmp_path, steps=STEPS, optimizer=SGD, clip_norm=1e-3, answers_collapse=True)
    fresh = task.build_network()
    redraw_weights(fresh, task, seed=3, step=JUDGED_AT)
    assert torch.equal(weights[JUDGED_AT], next(fresh.parameters()))
    # The first step of Nesterov momentum m from rest is (1 + m) times the clipped gradient: no old velocity is left.
    moved = (weights[JUDGED_AT + 1] - weights[JUDGED_AT]).norm().item()
    assert 0 < moved <= 0.1 * 1.95 * 1e-3 * 1.001


def test_the_schedule_goes_on_and_without_momentum_to_lower_the_rate_falls(tmp_path: Path) -> None:
    result = answered(tmp_path, optimizer=ADAMW)
    bases = [0.01, 0.01, 0.002, 0.002, 0.002, 0.002]
    expected = [base * (1 - 4 * epoch / STEPS) ** 0.9 for epoch, base in enumerate(bases)]
    assert [row["learning_rate"] for row in result.history] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "changes"),
    [
        pytest.param([{"pseudo_dice": value} for value in (0.0, 0.1, 0.0, 0.0, 0.0, 0.0)], {}, id="healthy"),
        pytest.param(ZEROS, {"answers_collapse": False}, id="turned off"),
        pytest.param(ZEROS[:2], {"steps": 8}, id="at its end"),
        pytest.param(ZEROS[:1], {"steps": 4}, id="too short"),
    ],
)
def test_without_a_collapse_to_answer_nothing_changes(
    tmp_path: Path, scores: list[dict[str, float]], changes: dict[str, Any]
) -> None:
    log = Events()
    result = answered(tmp_path / "a", scores, event_log=log, **changes)
    assert result.rescues == []
    assert {event["kind"] for event in log.events} == {"epoch"}
    assert_same(result, answered(tmp_path / "b", scores, **changes | {"answers_collapse": False}))


@pytest.mark.parametrize("stops", [[2], [7], [8], [9], [17], list(range(STEPS))], ids=str)
@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_stopped_before_or_after_it_the_training_ends_the_same(
    tmp_path: Path, optimizer: dict[str, Any], stops: list[int]
) -> None:
    log = Events()
    for stop in stops:

        def interrupt(step: int, stop: int = stop) -> None:
            if step == stop:
                os.kill(os.getpid(), signal.SIGINT)

        try:
            answered(tmp_path / "stopped", before_batch=interrupt, event_log=log, optimizer=optimizer)
        except KeyboardInterrupt:
            continue
    stopped = answered(tmp_path / "stopped", event_log=log, optimizer=optimizer)
    assert_same(stopped, answered(tmp_path / "through", optimizer=optimizer))
    assert [event["kind"] for event in log.events].count("collapse") == 1


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_killed_before_its_state_is_saved_it_is_answered_again_in_the_same_way(
    tmp_path: Path, optimizer: dict[str, Any]
) -> None:
    class Killed(Events):
        def append(self, kind: str, **fields: Any) -> None:
            super().append(kind, **fields)
            if kind == "collapse":
                raise OSError("killed")

    log = Killed()
    with pytest.raises(OSError, match="killed"):
        answered(tmp_path / "killed", optimizer=optimizer, event_log=log)
    again = Events()
    result = answered(tmp_path / "killed", optimizer=optimizer, event_log=again)
    assert_same(result, answered(tmp_path / "through", optimizer=optimizer))
    assert len(result.rescues) == 1
    assert log.events[-1] == next(event for event in again.events if event["kind"] == "collapse")


def test_an_early_stop_waits_for_the_answer_and_forgets_the_scores_before(tmp_path: Path) -> None:
    through = [{"pseudo_dice": value} for value in (0.0, 0.0, 0.1, 0.2, 0.3, 0.4)]
    result = answered(tmp_path / "learns", through, early_stop_epochs=1, keeps_best=True)
    assert (result.num_steps, result.stopped_early, result.kept_epoch) == (STEPS, False, 5)
    # The third epoch's 0 is the best so far once more, and the fourth is the first one without a better score.
    lost = answered(tmp_path / "does not", early_stop_epochs=1, keeps_best=True)
    assert (lost.num_steps, lost.stopped_early, lost.kept_epoch) == (16, True, 2)


class BornDead(FakeTask):
    """Its first network has no unit that is ever on, so it calls everything background; the next ones are sound."""

    def __init__(self) -> None:
        super().__init__(dropout_probability=0)
        self.loss_factor = 10.0
        self.num_networks = 0

    def build_network(self) -> nn.Module:
        network = super().build_network()
        self.num_networks += 1
        if self.num_networks == 1:
            nn.init.constant_(network[0].bias, -1e3)
        return network

    def validate(self, network: nn.Module, epoch: int, device: torch.device) -> dict[str, float]:
        batch = self.batch(10_000 + epoch, range(4), device)
        predicted, target = network(batch["image"]).argmax(1), batch["target"]
        return {"pseudo_dice": (2 * (predicted * target).sum() / (predicted + target).sum()).item()}


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_problem_built_to_collapse_is_learned_after_the_answer_only(tmp_path: Path, is_answered: bool) -> None:
    result = fit(BornDead(), tmp_path, steps=120, steps_per_epoch=20, optimizer=SGD, answers_collapse=is_answered)
    dice = [row["val_pseudo_dice"] for row in result.history]
    assert dice[0] == 0
    assert len(result.rescues) == is_answered
    assert dice[-1] > 0.7 if is_answered else dice[-1] == 0


@pytest.mark.slow
def test_all_workers_answer_as_one(tmp_path: Path) -> None:
    alone = answered_without_dropout(tmp_path / "alone")
    torch.multiprocessing.spawn(fit_as_rank, args=(2, 3, str(tmp_path), JUDGED_AT), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for name, tensor in alone.network.items():
        assert torch.equal(ranks[0]["network"][name], ranks[1]["network"][name])
        torch.testing.assert_close(ranks[0]["network"][name], tensor, rtol=0, atol=1e-5)
    assert [rank["rescues"] for rank in ranks] == [alone.rescues] * 2
    assert len(alone.rescues) == 1


def answered_without_dropout(run_dir: Path) -> TrainingResult:
    """What `fit_as_rank` trains, by one process."""
    task = FakeTask(3, dropout_probability=0, scores=ZEROS)
    return fit(task, run_dir, answers_collapse=True)
