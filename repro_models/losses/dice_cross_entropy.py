"""Sum of cross entropy and soft Dice loss, as nnU-Net v2 trains with.

Cross entropy: mean over annotated voxels. Dice loss: minus the soft Dice of softmax probabilities,

    dice = (2 sum(p y) + 1e-5) / max(sum(p) + sum(y) + 1e-5, 1e-8),

over annotated voxels, mean over foreground classes, and over samples unless the sums run over the batch.
A perfect prediction has a loss of -1.

Shapes:
    B batch, K classes (background is 0), *s voxels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMOOTH = 1e-5
_SMALLEST_DENOMINATOR = 1e-8
_NO_LABEL = -100


class DiceCrossEntropy(nn.Module):
    """Cross entropy plus Dice loss, weighted one to one, computed in float32.

    Args:
        is_batch_dice: take the sums of the Dice over the whole batch, not per sample.
        ignore_label: label of voxels that nobody annotated; both terms leave them out.
        reduce_sums: adds a tensor up over the ranks of a distributed training, differentiably. Used with batch Dice
            only: a Dice of the batch needs the sums of all ranks.
    """

    def __init__(
        self,
        is_batch_dice: bool,
        ignore_label: int | None = None,
        reduce_sums: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.is_batch_dice = is_batch_dice
        self.ignore_label = _NO_LABEL if ignore_label is None else ignore_label
        self.reduce_sums = reduce_sums

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean cross entropy of annotated voxels; 0 where there is none. Shapes as in `forward`."""
        return self._cross_entropy(logits.float().log_softmax(dim=1), target)

    def dice(self, logits: Tensor, target: Tensor) -> Tensor:
        """Dice loss, in [-1, 0]. Shapes as in `forward`."""
        return self._dice(logits.float().log_softmax(dim=1), target)

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy and Dice loss, apart. Shapes as in `forward`."""
        log_probabilities = logits.float().log_softmax(dim=1)
        return self._cross_entropy(log_probabilities, target), self._dice(log_probabilities, target)

    def _cross_entropy(self, log_probabilities: Tensor, target: Tensor) -> Tensor:
        total = functional.nll_loss(log_probabilities, target, ignore_index=self.ignore_label, reduction="sum")
        return total / (target != self.ignore_label).sum().clamp(min=1)

    def _dice(self, log_probabilities: Tensor, target: Tensor) -> Tensor:
        probabilities = log_probabilities[:, 1:].exp()
        if self.ignore_label != _NO_LABEL:
            probabilities = probabilities * (target != self.ignore_label).unsqueeze(1)
        classes = torch.arange(1, log_probabilities.shape[1], device=target.device).view(-1, *[1] * (target.ndim - 1))
        # Boolean, so that backward keeps a byte and not a float per voxel and class.
        is_class = target.unsqueeze(1) == classes
        axes = [0, *range(2, is_class.ndim)] if self.is_batch_dice else list(range(2, is_class.ndim))
        sums = torch.stack(
            [(probabilities * is_class).sum(axes), probabilities.sum(axes), is_class.sum(axes).to(probabilities)]
        )
        if self.is_batch_dice and self.reduce_sums is not None:
            sums = self.reduce_sums(sums)
        intersection, predicted, reference = sums
        denominator = (predicted + reference + _SMOOTH).clamp(min=_SMALLEST_DENOMINATOR)
        return -((2 * intersection + _SMOOTH) / denominator).mean()

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss, a scalar.

        Args:
            logits: (B, K, *s).
            target: (B, *s) int64, labels 0 to K - 1 or the ignore label.
        """
        cross_entropy, dice = self.terms(logits, target)
        return cross_entropy + dice
