"""Focal loss (Lin et al., 2017, arXiv 1708.02002): cross entropy that sure and right voxels hardly add to.

Three functions go by the name. With p the probability that the network gives to what is true,

    softmax    -(1 - p)^g log p, p of a softmax over classes, mean over voxels. The form of the LDAM code, and here the
               default, because classes exclude each other.
    sigmoid    the same for every class against the rest, p of a sigmoid, summed over classes, mean over voxels. The
               form of the "bag of tricks" for long tails: `FocalLoss(is_sigmoid=True)`.
    RetinaNet  sigmoid, and each class's own voxels weigh a, all others 1 - a; the sum is divided by the number of
               objects. The paper's, with a = 0.25 and g = 2: `sigmoid_focal`, element by element, and
               `FocalLoss(is_sigmoid=True, alpha=0.25)`, which divides by the number of voxels.

g = 0 is cross entropy.

Differs:
    - With class weights, the LDAM code takes p from the cross entropy that was weighted before, which is not the focal
      loss; there are no class weights here.
Shapes:
    B batch, K classes, *s voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.losses.region_sums import NO_LABEL, in_float, one_against_the_rest

# Of 1 - p: a power below 1 has no gradient at 0.
_SMALLEST = 1e-12


def sigmoid_focal(logits: Tensor, is_true: Tensor, gamma: float = 2.0, alpha: float | None = 0.25) -> Tensor:
    """RetinaNet's loss of each element.

    Args:
        logits: of any shape.
        is_true: bool, of the same shape.
        gamma: how fast sure elements fade.
        alpha: weight of the true elements, the others having 1 - alpha; None for neither.

    Returns:
        As large as `logits`.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, is_true.to(logits), reduction="none")
    loss = _faded(cross_entropy, gamma)
    return loss if alpha is None else loss * torch.where(is_true, alpha, 1 - alpha)


def softmax_focal(logits: Tensor, target: Tensor, gamma: float = 2.0, ignore_label: int | None = None) -> Tensor:
    """Loss of each voxel, 0 where nobody annotated.

    Args:
        logits: (B, K, *s).
        target: (B, *s) int64.
        gamma: how fast sure voxels fade.
        ignore_label: of voxels that nobody annotated.

    Returns:
        (B, *s).
    """
    ignored = NO_LABEL if ignore_label is None else ignore_label
    return _faded(functional.cross_entropy(logits, target, ignore_index=ignored, reduction="none"), gamma)


def _faded(cross_entropy: Tensor, gamma: float) -> Tensor:
    return (-torch.expm1(-cross_entropy)).clamp(min=_SMALLEST) ** gamma * cross_entropy


class FocalLoss(nn.Module):
    """Mean over annotated voxels of the softmax form, or of the sum over classes of the sigmoid form.

    Args:
        gamma: how fast sure voxels fade.
        is_sigmoid: each class against the rest.
        alpha: of the sigmoid form, weight of a class's own voxels; None for no weights.
        ignore_label: label of voxels that nobody annotated; they are left out.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        is_sigmoid: bool = False,
        alpha: float | None = None,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        if alpha is not None and not is_sigmoid:
            raise ValueError(
                f"alpha={alpha}: weighs true against false, which the softmax form does not know; set "
                "is_sigmoid=True, or leave alpha out"
            )
        self.gamma = gamma
        self.is_sigmoid = is_sigmoid
        self.alpha = alpha
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss, a scalar; 0 where nothing is annotated.

        Args:
            logits: (B, K, *s).
            target: (B, *s) int64, labels 0 to K - 1 or the ignore label.
        """
        logits = in_float(logits)
        is_annotated = target != (NO_LABEL if self.ignore_label is None else self.ignore_label)
        if self.is_sigmoid:
            is_class = one_against_the_rest(target, logits.shape[1])
            losses = sigmoid_focal(logits, is_class, self.gamma, self.alpha).sum(dim=1) * is_annotated
        else:
            losses = softmax_focal(logits, target, self.gamma, self.ignore_label)
        return losses.sum() / is_annotated.sum().clamp(min=1)

    def terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and nothing that runs over the batch. Shapes as in `forward`."""
        return self(logits, target), torch.zeros((), device=logits.device)
