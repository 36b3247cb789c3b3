"""Dice losses as published: 1 minus the overlap D of probabilities p and reference y, a mean over foreground classes.

    squared   D = (2 sum(p y) + e) / (sum(p^2) + sum(y^2) + e)    V-Net (Milletari et al., 2016, arXiv 1606.04797)
    plain     D = (2 sum(p y) + e) / (sum(p) + sum(y) + e)        most code since, nnU-Net's included

V-Net sums over one volume and has no e; sums over the whole batch, and an e that lets an absent class be predicted as
absent, are the two choices that differ most between implementations.

Differs:
    - e is 1e-5, because without it a class that is absent from a sample costs 1 and teaches nothing; `smooth=0` is the
      paper.
    - V-Net's published layer is not offered: its forward pass takes the Dice of the labels that win, adds it up over
      the batch, and its gradient mixes those labels with the probabilities.
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


class DiceLoss(nn.Module):
    """1 minus the soft Dice, in [0, 1].

    Args:
        is_squared: V-Net's form, else the plain one.
        is_batch: take the sums over the whole batch, not per sample.
        smooth: e of the formulas.
        ignore_label: label of voxels that nobody annotated; they are left out.
        reduce_sums: adds a tensor up over the ranks of a distributed training, differentiably.
    """

    def __init__(
        self,
        is_squared: bool = True,
        is_batch: bool = False,
        smooth: float = 1e-5,
        ignore_label: int | None = None,
        reduce_sums: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.is_squared = is_squared
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
            logits,
            target,
            is_batch=self.is_batch,
            ignore_label=self.ignore_label,
            is_squared=self.is_squared,
            reduce_sums=self.reduce_sums,
        )
        denominator = (predicted + reference + self.smooth).clamp(min=_SMALLEST)
        return 1 - ((2 * intersection + self.smooth) / denominator).mean()

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing that is a mean over samples, and the loss. Shapes as in `forward`."""
        return torch.zeros((), device=logits.device), self(logits, target)
