"""What the training loop asks of a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class TrainingTask(Protocol):
    """A network, its batches, its loss and its validation."""

    @property
    def score_name(self) -> str:
        """Key of the score (higher is better) by which `validate` says which epoch is better."""

    @property
    def batch_size(self) -> int:
        """Samples in a global batch, over all ranks."""

    def build_network(self) -> nn.Module:
        """Build the network on the CPU; its weights are drawn from torch's generator, which the loop has seeded."""

    def batch(self, step: int, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """Give the samples `indices` of the global batch of `step`, along the first axis of every tensor.

        A pure function of (seed, step, index): it runs one step ahead in a thread of its own and must not draw from
        torch's global generators.
        """

    def loss_terms(
        self, network: nn.Module, batch: dict[str, Tensor], sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Give two scalars to be minimised together; either may be zero.

        The first is a mean over the samples of `batch`. The second is the same on every rank, because it was computed
        from sums that went through `sum_over_ranks` (the Dice loss of a whole batch). Runs under autocast.
        """

    def validate(self, network: nn.Module, epoch: int, device: torch.device) -> dict[str, float]:
        """Score the network, which is in evaluation mode, without gradients and under autocast; rank 0 only.

        The score called `score_name`, else `loss` (lower is better), decides about early stopping and the best epoch.
        """
