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

from torch import Tensor

from repro_models.losses.overlap_loss import SMALLEST_DENOMINATOR, OverlapLoss
from repro_models.losses.region_sums import RegionSums


class IoULoss(OverlapLoss):
    """1 minus the soft intersection over union; arguments as of `OverlapLoss`."""

    def overlap(self, sums: RegionSums) -> Tensor:
        """The quotient of the formula."""
        union = (sums.predicted + sums.reference - sums.intersection + self.smooth).clamp(min=SMALLEST_DENOMINATOR)
        return (sums.intersection + self.smooth) / union
