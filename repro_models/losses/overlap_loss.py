"""What Dice and IoU losses have in common: sums over regions, and one term that may cover all ranks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from repro_models.losses.region_sums import RegionSums, region_sums

# Of a denominator, so that 0 / 0 is 0.
SMALLEST_DENOMINATOR = 1e-12


class OverlapLoss(nn.Module, ABC):
    """1 minus an overlap, in [0, 1]; mean over foreground classes, and over samples unless sums run over the batch.

    Args:
        is_batch: take the sums over the whole batch, not per sample.
        smooth: e of the formula.
        ignore_label: label of voxels that nobody annotated; they are left out.
        reduce_sums: adds a tensor up over the ranks of a distributed training, differentiably.
        is_squared: take the squares of the probabilities in the sum of what is predicted.
    """

    def __init__(
        self,
        is_batch: bool = False,
        smooth: float = 1e-5,
        ignore_label: int | None = None,
        reduce_sums: Callable[[Tensor], Tensor] | None = None,
        is_squared: bool = False,
    ) -> None:
        super().__init__()
        self.is_batch = is_batch
        self.smooth = smooth
        self.ignore_label = ignore_label
        self.reduce_sums = reduce_sums
        self.is_squared = is_squared

    @abstractmethod
    def overlap(self, sums: RegionSums) -> Tensor:
        """Of each class, of the shape of the sums."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss, a scalar.

        Args:
            logits: (B, K, *s).
            target: (B, *s) int64, labels 0 to K - 1 or the ignore label.
        """
        sums = region_sums(
            logits,
            target,
            is_batch=self.is_batch,
            ignore_label=self.ignore_label,
            is_squared=self.is_squared,
            reduce_sums=self.reduce_sums,
        )
        return 1 - self.overlap(sums).mean()

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing that is a mean over samples, and the loss. Shapes as in `forward`."""
        return torch.zeros((), device=logits.device), self(logits, target)
