"""The training loop: plain torch; one process, or one of several that share each global batch.

Epochs only cut the training into parts: each ends with a validation, a row of history, a saved state and an event.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipelines.planning.precision import autocast, place
from pipelines.training.budget import TrainingBudget
from pipelines.training.checkpoint import load_state, restore_state, save_state
from pipelines.training.collapse import has_collapsed, is_due, redraw_weights, rescue
from pipelines.training.divergence import check_finite
from pipelines.training.early_stop import BestSoFar, is_over
from pipelines.training.interruption import Interruption
from pipelines.training.optimizer import build_optimizer, set_learning_rate
from pipelines.training.prefetch import Batch, BatchPrefetch
from pipelines.training.progress import Progress
from pipelines.training.progress_bar import ProgressBar
from pipelines.training.schedule import Schedule
from pipelines.training.task import TrainingTask
from pipelines.training.world import World


class AppendsEvents(Protocol):
    """A log that takes one event at a time."""

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training gives.

    Args:
        network: state dict of the bare network on the CPU, after the last step, or of the best epoch if that is kept.
        history: a row per epoch: `epoch` (from 0), `step` (done by its end), `train_loss` (mean over its steps),
            `learning_rate` (of its last step), `seconds` (since the start of the training), and what the validation
            gave under `val_…` (rank 0 only).
        num_steps: optimiser steps done.
        seconds: time taken on the clock of the budget, over all parts of an interrupted training.
        stopped_early: whether the score had stopped improving before the budget was spent.
        kept_epoch: whose weights these are, from 0.
        rescues: what was done about a collapse, at most one (see `pipelines.training.collapse.rescue`).
    """

    network: dict[str, Tensor]
    history: list[dict[str, float]]
    num_steps: int
    seconds: float
    stopped_early: bool
    kept_epoch: int | None
    rescues: list[dict[str, Any]]


def train(
    task: TrainingTask,
    *,
    run_dir: Path,
    seed: int,
    optimizer: dict[str, Any],
    schedule: dict[str, Any],
    clip_norm: float | None,
    budget: dict[str, Any],
    device: torch.device,
    description: str,
    keeps_best: bool = False,
    answers_collapse: bool = False,
    world: World | None = None,
    event_log: AppendsEvents | None = None,
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    shows_progress: bool = True,
) -> TrainingResult:
    """Train the network of `task`, or go on where an earlier call with the same `run_dir` stopped.

    The state is saved after every epoch and on Ctrl-C or SIGTERM. On the CPU a resumed training ends with the very
    weights of an uninterrupted one; of a finished training the result is read and nothing is run.

    Args:
        task: the network, its batches, loss and validation.
        run_dir: folder of `state.pt`; every rank must see the same folder.
        seed: of the initial weights and of what the network draws.
        optimizer: arguments of `build_optimizer`.
        schedule: arguments of `Schedule`.
        clip_norm: largest Euclidean norm of the gradient; None for any.
        budget: fields of `TrainingBudget`; other keys are not looked at.
        device: where to train.
        description: names the run in the progress bar and in errors.
        keeps_best: give the weights of the best epoch (see `pipelines.training.early_stop`), not the last ones.
        answers_collapse: begin anew, with gentler steps, where the score is still 0 after a tenth of the budget (see
            `pipelines.training.collapse`).
        world: this rank among those that share the training; None is a process alone.
        event_log: told each epoch by rank 0 (kind `epoch`; `step`, `epoch`, `metrics`, `score`, `seconds`), and an
            answered collapse (kind `collapse`; what `pipelines.training.collapse.rescue` gives).
        wrap: makes the network one that averages gradients over ranks (`DistributedDataParallel`).
        shows_progress: False where several trainings run side by side.

    Raises:
        ValueError: a setting is wrong, or the loss or the gradient is no longer finite.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM, after the step under way was finished and the state saved.
    """
    world = world or World()
    limit = TrainingBudget.from_dict(budget)
    rates = Schedule(**schedule)
    indices = world.shares(task.batch_size)
    saved = load_state(run_dir)
    if saved is not None and saved["progress"]["is_finished"]:
        return _result(saved["network"], saved["best_network"], Progress.from_values(saved["progress"]))

    torch.manual_seed(seed)
    network = place(task.build_network(), device)
    torch_optimizer = build_optimizer(network.named_parameters(), **optimizer)
    progress = Progress() if saved is None else restore_state(saved, network, torch_optimizer, device)
    # The momentum of a rescued training has come back with the state of its optimiser; the rate is set at each step.
    settings = progress.rescues[-1]["optimizer"] if progress.rescues else optimizer
    best_network = None if saved is None else saved["best_network"]
    _check_same_start(progress.step, run_dir, world, device)
    model = network if wrap is None else wrap(network)
    model.train()

    def load(step: int) -> Batch:
        return task.batch(step, indices, device)

    is_first = world.rank == 0
    with (
        Interruption() as interruption,
        BatchPrefetch(load, limit.has_step) as batches,
        ProgressBar(description, limit, progress, task.score_name, is_shown=shows_progress and is_first) as bar,
    ):
        started = limit.clock_s() - progress.elapsed_s
        while not progress.is_finished:
            step_started = time.monotonic()
            now = limit.progress(progress.step, progress.elapsed_s)
            if progress.epoch_num_steps == 0:
                progress.epoch_start = now
            factor = rates.factor(now if rates.is_per_step else progress.epoch_start)
            learning_rate = settings["learning_rate"] * factor
            set_learning_rate(torch_optimizer, learning_rate)
            batch = batches.batch(progress.step)
            loss, norm = take_step(task, model, batch, len(indices), torch_optimizer, clip_norm, device, world)
            # All ranks see the same loss, and the time of rank 0, so they all stop at the same step.
            loss, num_interrupted, elapsed_s = world.sum_numbers(
                [loss / world.size, interruption.is_requested, is_first * (limit.clock_s() - started)], device
            )
            check_finite(description, progress.step, loss, norm, learning_rate, batch, indices)
            progress.add_step(loss, time.monotonic() - step_started, elapsed_s)
            bar.show(progress, loss)

            if progress.step % limit.steps_per_epoch == 0 or limit.is_spent(progress.step, progress.elapsed_s):
                scores = _validate(task, network, len(progress.history), device) if is_first else {}
                model.train()
                metrics = progress.end_epoch(learning_rate, scores, task.score_name, limit.early_stop_rule)
                epoch = len(progress.history) - 1
                if keeps_best and progress.best.epoch == epoch:
                    best_network = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
                losses = [row.get("val_loss", row["train_loss"]) for row in progress.history]
                is_judged_now = (
                    answers_collapse
                    and not progress.is_judged
                    and is_due(limit.progress(progress.step, progress.elapsed_s), progress.step)
                )
                progress.is_judged = progress.is_judged or is_judged_now
                is_lost = is_judged_now and has_collapsed(scores, task.score_name)
                is_stale = is_over(limit.early_stop_rule, limit.early_stop_epochs, progress.best, losses)
                # The others, who know no scores, wait here for the validation and take over its verdict.
                elapsed_s = is_first * (limit.clock_s() - started)
                verdict = [is_first and is_stale and not is_lost, is_first and is_lost, interruption.is_requested]
                num_stale, num_lost, num_interrupted, elapsed_s = world.sum_numbers([*verdict, elapsed_s], device)
                is_spent = limit.is_spent(progress.step, elapsed_s)
                progress.elapsed_s = progress.history[-1]["seconds"] = elapsed_s
                progress.has_stopped_early = num_stale > 0 and not is_spent
                progress.is_finished = num_stale > 0 or is_spent
                bar.show(progress, loss)
                if is_first and event_log is not None:
                    score = scores.get(task.score_name, -losses[-1])
                    event_log.append(
                        "epoch", step=progress.step, epoch=epoch, metrics=metrics, score=score, seconds=elapsed_s
                    )
                if num_lost > 0 and not progress.is_finished:
                    progress.rescues.append(rescue(settings, scores, task.score_name, epoch, progress.step))
                    settings = progress.rescues[-1]["optimizer"]
                    redraw_weights(network, task, seed, progress.step)
                    torch_optimizer = build_optimizer(network.named_parameters(), **settings)
                    progress.best, best_network = BestSoFar(), None
                    if is_first and event_log is not None:
                        event_log.append("collapse", **progress.rescues[-1])
                has_new_state = True
            else:
                has_new_state = num_interrupted > 0
            if has_new_state and is_first:
                save_state(run_dir, network, torch_optimizer, progress, device, best_network)
            if num_interrupted:
                # No rank leaves before the state is on disk: the first to go may take the others with it.
                world.sum_numbers([0], device)
                raise KeyboardInterrupt
    return _result(network.state_dict(), best_network, progress)


def take_step(
    task: TrainingTask,
    model: nn.Module,
    batch: Batch,
    num_samples: int,
    optimizer: torch.optim.Optimizer,
    clip_norm: float | None,
    device: torch.device,
    world: World,
) -> tuple[float, float]:
    """Update the weights once.

    Args:
        task: gives the loss.
        model: the network in training mode.
        batch: this rank's samples.
        num_samples: how many they are.
        optimizer: of the weights.
        clip_norm: largest norm of the gradient, None for any.
        device: where to compute.
        world: this process among those that share the training.

    Returns:
        This rank's scaled loss, whose mean over ranks is the loss, and the norm of the gradient before clipping.
    """
    optimizer.zero_grad(set_to_none=True)
    with autocast(device):
        sample_mean_loss, global_loss = task.loss_terms(model, batch, world.sum_over_ranks)
    # Gradients are averaged over ranks, so a rank's mean counts by its share of the samples, times the ranks. The
    # global loss needs no factor: its sums were summed over ranks, and so were their gradients.
    loss = sample_mean_loss * (num_samples * world.size / task.batch_size) + global_loss
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), math.inf if clip_norm is None else clip_norm)
    optimizer.step()
    # Read after the update is queued, so that a GPU does not idle; a bad update is never saved.
    values: list[float] = torch.stack([loss.detach().float(), norm.float()]).tolist()
    return values[0], values[1]


def _validate(task: TrainingTask, network: nn.Module, epoch: int, device: torch.device) -> dict[str, float]:
    network.eval()
    with torch.no_grad(), autocast(device):
        return {name: float(value) for name, value in task.validate(network, epoch, device).items()}


def _check_same_start(step: int, run_dir: Path, world: World, device: torch.device) -> None:
    (total,) = world.sum_numbers([step], device)
    if total != step * world.size:
        raise ValueError(
            f"{run_dir}: worker {world.rank} would start from step {step} and others from another one; "
            "put the folder on storage that all workers share"
        )


def _result(network: dict[str, Tensor], best_network: dict[str, Tensor] | None, progress: Progress) -> TrainingResult:
    kept = network if best_network is None else best_network
    return TrainingResult(
        network={name: tensor.detach().cpu().clone() for name, tensor in kept.items()},
        history=progress.history,
        num_steps=progress.step,
        seconds=progress.elapsed_s,
        stopped_early=progress.has_stopped_early,
        kept_epoch=len(progress.history) - 1 if best_network is None else progress.best.epoch,
        rescues=progress.rescues,
    )
