"""Cross entropy that weighs the gaps between neighbouring cells (U-Net, Ronneberger et al., 2015, arXiv 1505.04597).

    E = sum(w(x) ce(x)),  w(x) = w_c(x) + w_0 exp(-(d_1(x) + d_2(x))^2 / (2 sigma^2)),

with d_1 and d_2 the distances to the nearest and the second nearest cell and w_c a balance of the classes. The second
summand, the border, is made of instance labels once for an image: `pipelines/preprocessing/border.py`.

Differs:
    - The printed energy lacks its minus sign.
    - The paper does not say by what the sum is divided; here by the number of annotated voxels, and with
      `divides_by_weights` by the sum of their weights.
    - w_c is 1; `balances_classes` takes N / (K n_c), of the annotated voxels of the batch. The paper's balance is not
      given.
Shapes:
    B batch, K classes, *s voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.losses.region_sums import NO_LABEL, in_float, one_against_the_rest


class BorderWeightedCrossEntropy(nn.Module):
    """Cross entropy, weighted by class and border.

    Args:
        balances_classes: weigh the classes so that all have the same sum.
        divides_by_weights: divide by the sum of the weights, not by the number of voxels.
        ignore_label: label of voxels that nobody annotated; they are left out.
    """

    def __init__(
        self, balances_classes: bool = False, divides_by_weights: bool = False, ignore_label: int | None = None
    ) -> None:
        super().__init__()
        self.balances_classes = balances_classes
        self.divides_by_weights = divides_by_weights
        self.ignore_label = NO_LABEL if ignore_label is None else ignore_label

    def forward(self, logits: Tensor, target: Tensor, border: Tensor) -> Tensor:
        """Loss, a scalar; 0 where nothing is annotated.

        Args:
            logits: (B, K, *s).
            target: (B, *s) int64, labels 0 to K - 1 or the ignore label.
            border: (B, *s), the second summand of the weights.
        """
        logits = in_float(logits)
        is_annotated = target != self.ignore_label
        losses = functional.cross_entropy(logits, target, ignore_index=self.ignore_label, reduction="none")
        weights = (border.to(losses) + self._class_weights(target, is_annotated, logits)) * is_annotated
        total = weights.sum() if self.divides_by_weights else is_annotated.sum()
        return (weights * losses).sum() / total.clamp(min=1)

    def _class_weights(self, target: Tensor, is_annotated: Tensor, logits: Tensor) -> Tensor | float:
        if not self.balances_classes:
            return 1.0
        num_classes = logits.shape[1]
        counts = one_against_the_rest(target, num_classes).sum(dim=(0, *range(2, logits.ndim)))
        weights = is_annotated.sum() / (num_classes * counts.clamp(min=1)).to(logits)
        return weights[torch.where(is_annotated, target, 0)]
