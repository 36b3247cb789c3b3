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

from torch import Tensor

from repro_models.losses.overlap_loss import SMALLEST_DENOMINATOR, OverlapLoss
from repro_models.losses.region_sums import RegionSums


class DiceLoss(OverlapLoss):
    """1 minus the soft Dice.

    Args:
        is_squared: V-Net's form, else the plain one.
        is_batch: as of `OverlapLoss`, and so are the others.
        smooth: e of the formulas.
        ignore_label: likewise.
        reduce_sums: likewise.
    """

    def __init__(
        self,
        is_squared: bool = True,
        is_batch: bool = False,
        smooth: float = 1e-5,
        ignore_label: int | None = None,
        reduce_sums: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(is_batch, smooth, ignore_label, reduce_sums, is_squared)

    def overlap(self, sums: RegionSums) -> Tensor:
        """D of the formulas."""
        denominator = (sums.predicted + sums.reference + self.smooth).clamp(min=SMALLEST_DENOMINATOR)
        return (2 * sums.intersection + self.smooth) / denominator
