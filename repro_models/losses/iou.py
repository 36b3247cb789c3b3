"""Soft IoU loss, as in UNet 3+ (Huang et al., 2020, arXiv 2004.08790).

    1 - (sum(p y) + e) / (sum(p) + sum(y) - sum(p y) + e),

p being softmax probabilities and y the reference; mean over foreground classes, and over samples unless the sums run
over the batch.

Differs:
    - e is 1e-5, because without it a class that is absent from a sample costs 1 and teaches nothing; `smooth=0` is the
      published form.
Shapes:
    B batch, K classes (background is 0), *s voxels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from repro_models.losses.region_sums import region_sums

# Of a denominator, so that 0 / 0 is 0.
_SMALLEST = 1e-12


class IoULoss(nn.Module):
    """1 minus the soft intersection over union, in [0, 1].

    Args:
        is_batch: take the sums over the whole batch, not per sample.
        smooth: e of the formula.
        ignore_label: label of voxels that nobody annotated; they are left out.
        reduce_sums: adds a tensor up over the ranks of a distributed training, differentiably.
    """

    def __init__(
        self,
        is_batch: bool = False,
        smooth: float = 1e-5,
        ignore_label: int | None = None,
        reduce_sums: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.is_batch = is_batch
        self.smooth = smooth
        self.ignore_label = ignore_label
        self.reduce_sums = reduce_sums

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss, a scalar.

        Args:
            logits: (B, K, *s).
            target: (B, *s) int64, labels 0 to K - 1 or the ignore label.
        """
        intersection, predicted, reference = region_sums(
            logits, target, is_batch=self.is_batch, ignore_label=self.ignore_label, reduce_sums=self.reduce_sums
        )
        union = (predicted + reference - intersection + self.smooth).clamp(min=_SMALLEST)
        return 1 - ((intersection + self.smooth) / union).mean()

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing that is a mean over samples, and the loss. Shapes as in `forward`."""
        return torch.zeros((), device=logits.device), self(logits, target)
