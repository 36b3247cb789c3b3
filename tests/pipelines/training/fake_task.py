"""A tiny segmentation task for the training loop, and a program that trains it.

`python -m tests.pipelines.training.fake_task RUN_DIR KILL_STEP` kills itself, as the system would, when the batch of
KILL_STEP is made.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from pipelines.training import collapse
from pipelines.training.loop import TrainingResult, train
from pipelines.training.world import World


def nothing(step: int) -> None:
    pass


class FakeTask:
    """Label = sign of the first channel, learned by two convolutions with dropout between them."""

    score_name = "pseudo_dice"

    def __init__(
        self,
        batch_size: int = 3,
        dropout_probability: float = 0.5,
        before_batch: Callable[[int], None] = nothing,
        scores: Sequence[dict[str, float]] | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.dropout_probability = dropout_probability
        self.before_batch = before_batch
        self.scores = scores
        self.poisoned_sample: tuple[int, int] | None = None
        self.loss_factor = 1.0
        self.validations: list[tuple[int, bool, bool]] = []

    def build_network(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Dropout(self.dropout_probability), nn.Conv2d(6, 2, 1)
        )

    def batch(self, step: int, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        self.before_batch(step)
        images = [np.random.default_rng([7, step, index]).normal(size=(2, 6, 6)) for index in indices]
        image = torch.from_numpy(np.stack(images)).float().to(device)
        target = (image[:, 0] > 0.3).long()
        if self.poisoned_sample is not None and step == self.poisoned_sample[0]:
            image[list(indices).index(self.poisoned_sample[1]), 0, 0, 0] = torch.nan
        return {"image": image, "target": target}

    def loss_terms(
        self, network: nn.Module, batch: dict[str, Tensor], sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        logits = network(batch["image"]).float()
        probability = logits.softmax(1)[:, 1]
        sums = torch.stack([(probability * batch["target"]).sum(), probability.sum() + batch["target"].sum()])
        hits, sizes = sum_over_ranks(sums)
        return self.loss_factor * cross_entropy(logits, batch["target"]), 1 - 2 * hits / sizes

    def validate(self, network: nn.Module, epoch: int, device: torch.device) -> dict[str, float]:
        self.validations.append((epoch, network.training, torch.is_grad_enabled()))
        if self.scores is not None:
            return self.scores[epoch]
        batch = self.batch(10_000 + epoch, range(4), device)
        right = network(batch["image"]).argmax(1) == batch["target"]
        return {"pseudo_dice": right.double().mean().item()}


STEPS = 11


def fit(task: FakeTask, run_dir: Path, **changes: Any) -> TrainingResult:
    """Train for eleven steps in epochs of four; `changes` replace arguments of `train`, or fields of the budget."""
    budget = {"kind": "steps", "steps": STEPS, "minutes": 1, "steps_per_epoch": 4}
    budget |= {"early_stop_epochs": 0, "early_stop_rule": "score"}
    budget = {name: changes.pop(name, value) for name, value in budget.items()}
    arguments: dict[str, Any] = {
        "run_dir": run_dir,
        "seed": 3,
        "optimizer": {"name": "sgd", "learning_rate": 0.2, "momentum": 0.9, "weight_decay": 1e-3},
        "schedule": {"name": "polynomial", "exponent": 0.9, "warmup_fraction": 0.0},
        "clip_norm": 0.5,
        "budget": budget,
        "device": torch.device("cpu"),
        "description": "fake fold 0",
        "shows_progress": False,
    }
    return train(task, **(arguments | changes))


def fit_as_rank(rank: int, size: int, batch_size: int, folder: str, collapsed_at: int | None = None) -> None:
    """Train as one of `size` processes; each leaves what came of it in `folder`.

    With `collapsed_at` every score is 0, which is answered at the end of the epoch that has so many steps.
    """
    torch.set_num_threads(1)
    scores = None if collapsed_at is None else [{"pseudo_dice": 0.0}] * 3
    if collapsed_at is not None:
        collapse.MIN_STEPS = collapsed_at
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    result = fit(
        FakeTask(batch_size, dropout_probability=0, scores=scores),
        Path(folder) / "run",
        world=World(rank, size),
        wrap=DistributedDataParallel,
        answers_collapse=collapsed_at is not None,
    )
    values = {"network": result.network, "history": result.history, "rescues": result.rescues}
    torch.save(values, Path(folder) / f"rank{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    kill_step = int(sys.argv[2])

    def kill(step: int) -> None:
        if step == kill_step:
            os.kill(os.getpid(), signal.SIGKILL)

    fit(FakeTask(before_batch=kill), Path(sys.argv[1]))
