from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.training.checkpoint import STATE_FILE, is_finished, load_state
from pipelines.training.loop import TrainingResult
from tests.pipelines.training.fake_task import STEPS, FakeTask, fit, fit_as_rank

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """An uninterrupted training."""
    torch.set_num_threads(1)
    return fit(FakeTask(), tmp_path_factory.mktemp("reference"))


class Events:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def append(self, kind: str, **fields: Any) -> None:
        self.events.append({"kind": kind, **fields})


def _assert_same(result: TrainingResult, reference: TrainingResult) -> None:
    assert result.network.keys() == reference.network.keys()
    for name, tensor in reference.network.items():
        assert torch.equal(result.network[name], tensor), name
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in r.history] for r in (result, reference)]
    assert timeless[0] == timeless[1]


def _saved_step(run_dir: Path) -> int:
    state = load_state(run_dir)
    assert state is not None
    return int(state["progress"]["step"])


def test_it_learns(tmp_path: Path) -> None:
    history = fit(FakeTask(dropout_probability=0), tmp_path, steps=60, steps_per_epoch=20).history
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert history[-1]["val_pseudo_dice"] > 0.9


def test_history_has_a_row_per_epoch(reference: TrainingResult) -> None:
    assert [(row["epoch"], row["step"]) for row in reference.history] == [(0, 4), (1, 8), (2, 11)]
    expected = [0.2 * (1 - done / STEPS) ** 0.9 for done in (0, 4, 8)]
    assert [row["learning_rate"] for row in reference.history] == pytest.approx(expected)
    seconds = [row["seconds"] for row in reference.history]
    assert seconds == sorted(seconds)
    assert (reference.num_steps, reference.seconds, reference.stopped_early) == (STEPS, seconds[-1], False)


def test_the_cosine_moves_within_an_epoch(tmp_path: Path) -> None:
    schedule = {"name": "cosine", "exponent": 0.9, "warmup_fraction": 0.5}
    rows = fit(FakeTask(), tmp_path, steps=8, schedule=schedule).history
    # The last steps of the epochs are 3 and 7: 3/4 of the warm-up, and 3/4 of the half cosine.
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.2 * 0.75, 0.2 * 0.1464466], rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path, reference: TrainingResult) -> None:
    _assert_same(fit(FakeTask(), tmp_path / "same"), reference)
    other = fit(FakeTask(), tmp_path / "other", seed=4)
    assert not torch.equal(other.network["0.weight"], reference.network["0.weight"])


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    plain = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    torch.manual_seed(3)
    before = FakeTask().build_network().state_dict()
    after = fit(FakeTask(), tmp_path, steps=1, optimizer=plain, clip_norm=1e-3).network
    moved = torch.cat([(after[name] - before[name]).flatten() for name in before]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)


def test_validation_sees_the_network_in_evaluation_mode_without_gradients(tmp_path: Path) -> None:
    task = FakeTask()
    fit(task, tmp_path)
    assert task.validations == [(0, False, False), (1, False, False), (2, False, False)]


@pytest.mark.parametrize("failing_step", [0, 3, 4, 6, 9, 10])
def test_a_training_that_failed_resumes_to_the_same_weights(
    tmp_path: Path, reference: TrainingResult, failing_step: int
) -> None:
    def fail(step: int) -> None:
        if step == failing_step:
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        fit(FakeTask(before_batch=fail), tmp_path)
    assert (tmp_path / STATE_FILE).exists() == (failing_step >= 4)
    _assert_same(fit(FakeTask(), tmp_path), reference)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_under_way_and_resumes_to_the_same_weights(
    tmp_path: Path, reference: TrainingResult, number: int
) -> None:
    def interrupt(step: int) -> None:
        if step == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        fit(FakeTask(before_batch=interrupt), tmp_path)
    assert _saved_step(tmp_path) in (6, 7)
    _assert_same(fit(FakeTask(), tmp_path), reference)


def test_stopped_again_and_again_it_still_ends_with_the_same_weights(tmp_path: Path, reference: TrainingResult) -> None:
    for stop in range(STEPS):

        def interrupt(step: int, stop: int = stop) -> None:
            if step == stop:
                os.kill(os.getpid(), signal.SIGINT)

        try:
            fit(FakeTask(before_batch=interrupt), tmp_path)
        except KeyboardInterrupt:
            continue
    _assert_same(fit(FakeTask(), tmp_path), reference)


@pytest.mark.slow
@pytest.mark.parametrize("kill_step", [2, 6])
def test_a_killed_training_resumes_to_the_same_weights(
    tmp_path: Path, reference: TrainingResult, kill_step: int
) -> None:
    command = [sys.executable, "-m", "tests.pipelines.training.fake_task", str(tmp_path), str(kill_step)]
    killed = subprocess.run(command, cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / STATE_FILE).exists() == (kill_step >= 4)
    _assert_same(fit(FakeTask(), tmp_path), reference)


def test_a_finished_training_returns_at_once(tmp_path: Path) -> None:
    first = fit(FakeTask(), tmp_path)
    assert is_finished(tmp_path)

    def refuse(step: int) -> None:
        raise AssertionError("a finished training asked for a batch")

    again = fit(FakeTask(before_batch=refuse), tmp_path)
    _assert_same(again, first)
    assert (again.num_steps, again.seconds, again.stopped_early) == (first.num_steps, first.seconds, False)


def test_events_tell_each_epoch_once_also_over_a_resume(tmp_path: Path) -> None:
    def interrupt(step: int) -> None:
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    log = Events()
    with pytest.raises(KeyboardInterrupt):
        fit(FakeTask(before_batch=interrupt), tmp_path, event_log=log)
    history = fit(FakeTask(), tmp_path, event_log=log).history
    assert [(event["kind"], event["epoch"], event["step"]) for event in log.events] == [
        ("epoch", 0, 4),
        ("epoch", 1, 8),
        ("epoch", 2, 11),
    ]
    metrics = log.events[1]["metrics"]
    assert set(metrics) == {"train/loss", "train/learning_rate", "train/seconds_per_step", "val/pseudo_dice"}
    assert metrics["train/loss"] == history[1]["train_loss"]
    assert metrics["val/pseudo_dice"] == history[1]["val_pseudo_dice"]


def test_it_stops_when_the_score_no_longer_improves(tmp_path: Path) -> None:
    scores = [{"pseudo_dice": value} for value in (0.1, 0.3, 0.2, 0.3, 0.9)]
    result = fit(FakeTask(scores=scores), tmp_path, steps=20, early_stop_epochs=2)
    assert (result.num_steps, result.stopped_early, len(result.history)) == (16, True, 4)
    assert is_finished(tmp_path)


def test_it_stops_when_the_loss_is_above_its_mean(tmp_path: Path) -> None:
    scores = [{"loss": value} for value in (4, 3, 2, 2.4, 9, 9)]
    budget = {"steps": 24, "early_stop_epochs": 2, "early_stop_rule": "mean_loss"}
    result = fit(FakeTask(scores=scores), tmp_path, **budget)
    assert (result.num_steps, result.stopped_early) == (20, True)


SCORES = [{"pseudo_dice": value} for value in (0.1, 0.3, 0.2)]


class Recording(FakeTask):
    """Keeps the weights of every epoch."""

    def __init__(self) -> None:
        super().__init__(scores=SCORES)
        self.states: list[dict[str, Tensor]] = []

    def validate(self, network: nn.Module, epoch: int, device: torch.device) -> dict[str, float]:
        self.states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return super().validate(network, epoch, device)


@pytest.mark.parametrize(("keeps_best", "epoch"), [(True, 1), (False, 2)])
def test_the_weights_are_those_of_the_best_epoch_if_asked_for(tmp_path: Path, keeps_best: bool, epoch: int) -> None:
    task = Recording()
    result = fit(task, tmp_path, keeps_best=keeps_best)
    assert result.kept_epoch == epoch
    assert all(torch.equal(tensor, task.states[epoch][name]) for name, tensor in result.network.items())
    assert any(not torch.equal(tensor, task.states[3 - epoch][name]) for name, tensor in result.network.items())
    again = fit(task, tmp_path, keeps_best=keeps_best)
    _assert_same(again, result)
    assert again.kept_epoch == epoch


@pytest.mark.parametrize("stop", range(0, STEPS, 3))
def test_the_best_weights_outlive_an_interruption(tmp_path: Path, stop: int) -> None:
    def interrupt(step: int) -> None:
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(FakeTask(scores=SCORES, before_batch=interrupt), tmp_path / "stopped", keeps_best=True)
    stopped = fit(FakeTask(scores=SCORES), tmp_path / "stopped", keeps_best=True)
    _assert_same(stopped, fit(FakeTask(scores=SCORES), tmp_path / "through", keeps_best=True))
    assert stopped.kept_epoch == 1


def test_any_gradient_may_pass_where_none_is_clipped(tmp_path: Path) -> None:
    free = fit(FakeTask(), tmp_path / "free", clip_norm=None)
    _assert_same(free, fit(FakeTask(), tmp_path / "wide", clip_norm=1e30))


def test_a_stop_in_the_last_epoch_is_not_early(tmp_path: Path) -> None:
    scores = [{"pseudo_dice": value} for value in (0.3, 0.2)]
    assert not fit(FakeTask(scores=scores), tmp_path, steps=8, early_stop_epochs=1).stopped_early


@pytest.mark.parametrize(("kind", "running"), [("minutes", "monotonic"), ("cpu_minutes", "process_time")])
def test_minutes_end_a_training_in_the_middle_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, running: str
) -> None:
    class Clock:
        now_s = 0.0

        def monotonic(self) -> float:
            return self.now_s if running == "monotonic" else 0.0

        def process_time(self) -> float:
            return self.now_s if running == "process_time" else 0.0

    clock = Clock()
    monkeypatch.setattr("pipelines.training.loop.time", clock)
    monkeypatch.setattr("pipelines.training.budget.time", clock)

    class SlowTask(FakeTask):
        def loss_terms(self, *arguments: Any) -> Any:
            clock.now_s += 10
            return super().loss_terms(*arguments)

    result = fit(SlowTask(), tmp_path, kind=kind, minutes=1)
    assert [(row["step"], row["seconds"]) for row in result.history] == [(4, 40), (6, 60)]
    assert [row["learning_rate"] for row in result.history] == pytest.approx([0.2, 0.2 * (1 / 3) ** 0.9])
    assert (result.num_steps, result.seconds) == (6, 60)


def test_divergence_is_told_and_overwrites_nothing(tmp_path: Path) -> None:
    task = FakeTask()

    def spoil(step: int) -> None:
        # The batch is made one step ahead: from step 8 or 9 on the loss is infinite, after the second epoch's state.
        if step == 10:
            task.loss_factor = float("inf")

    task.before_batch = spoil
    with pytest.raises(
        ValueError, match=r"fake fold 0: loss .* at step (9|10), learning rate .*lower the learning rate"
    ):
        fit(task, tmp_path)
    assert _saved_step(tmp_path) == 8


def test_a_batch_that_is_not_finite_is_named(tmp_path: Path) -> None:
    task = FakeTask()
    task.poisoned_sample = (5, 2)
    with pytest.raises(ValueError, match=r"fake fold 0: the batch of step 5 .*'image', samples \[2\]"):
        fit(task, tmp_path)
    assert _saved_step(tmp_path) == 4


def test_the_bar_shows_loss_and_pseudo_dice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(FakeTask(), tmp_path / "shown", shows_progress=True)
    shown = capsys.readouterr().err
    assert "fake fold 0: 100%" in shown
    assert "step=11" in shown
    assert "loss=" in shown
    assert "pseudo_dice=" in shown
    fit(FakeTask(), tmp_path / "hidden")
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [3, 4])
def test_two_workers_equal_one(tmp_path: Path, batch_size: int) -> None:
    alone = fit(FakeTask(batch_size, dropout_probability=0), tmp_path / "alone")
    torch.multiprocessing.spawn(fit_as_rank, args=(2, batch_size, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for name, tensor in alone.network.items():
        assert torch.equal(ranks[0]["network"][name], ranks[1]["network"][name])
        torch.testing.assert_close(ranks[0]["network"][name], tensor, rtol=0, atol=1e-5)
    losses = [[row["train_loss"] for row in history] for history in (ranks[0]["history"], alone.history)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert "val_pseudo_dice" in ranks[0]["history"][0]
    assert "val_pseudo_dice" not in ranks[1]["history"][0]
