"""The loss that segmentation networks train with, deep supervision included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.contract import SupervisedLogits
from repro_models.losses.border_weighted_cross_entropy import BorderWeightedCrossEntropy
from repro_models.losses.deep_supervision import deep_supervision_weights, downsample_target
from repro_models.losses.dice import DiceLoss
from repro_models.losses.dice_cross_entropy import DiceCrossEntropy
from repro_models.losses.focal import FocalLoss
from repro_models.losses.iou import IoULoss
from repro_models.losses.ms_ssim import MSSSIMLoss
from repro_models.losses.unet_3_plus_loss import UNet3PlusLoss

DEFAULT_LOSS = "dice_cross_entropy"
BORDER_WEIGHTED = "border_weighted_cross_entropy"
SumOverRanks = Callable[[Tensor], Tensor]

# Name in params.yaml -> the loss, of: sums run over the batch, ignore label, sum over ranks.
_LOSSES: dict[str, Callable[[bool, int | None, SumOverRanks | None], nn.Module]] = {
    DEFAULT_LOSS: DiceCrossEntropy,
    "dice": lambda is_batch, ignored, ranks: DiceLoss(False, is_batch, ignore_label=ignored, reduce_sums=ranks),
    "vnet_dice": lambda is_batch, ignored, ranks: DiceLoss(True, is_batch, ignore_label=ignored, reduce_sums=ranks),
    "iou": lambda is_batch, ignored, ranks: IoULoss(is_batch, ignore_label=ignored, reduce_sums=ranks),
    "focal": lambda is_batch, ignored, ranks: FocalLoss(ignore_label=ignored),
    "ms_ssim": lambda is_batch, ignored, ranks: MSSSIMLoss(ignore_label=ignored),
    "unet_3_plus": lambda is_batch, ignored, ranks: UNet3PlusLoss(is_batch, ignore_label=ignored, reduce_sums=ranks),
    BORDER_WEIGHTED: lambda is_batch, ignored, ranks: BorderWeightedCrossEntropy(ignore_label=ignored),
}
LOSSES = tuple(_LOSSES)


class SegmentationLoss:
    """One of `LOSSES`, of one output.

    Args:
        name: of the loss.
        is_batch_dice: whether sums of overlaps (Dice, IoU) run over the batch.
        ignore_label: of voxels without annotation.
        sum_over_ranks: adds a tensor up over the ranks of a distributed training, differentiably.
    """

    def __init__(
        self,
        name: str,
        is_batch_dice: bool,
        ignore_label: int | None = None,
        sum_over_ranks: SumOverRanks | None = None,
    ) -> None:
        self._loss: Any = _LOSSES[name](is_batch_dice, ignore_label, sum_over_ranks)

    def terms(self, logits: Tensor, target: Tensor, border: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The part that is a mean over samples, and the part that is made of overlaps.

        Args:
            logits: (B, K, *s).
            target: (B, *s) int64.
            border: (B, *s) weights of the gaps between cells, for the loss that reads them.
        """
        if isinstance(self._loss, BorderWeightedCrossEntropy):
            # Planning, which knows shapes alone, has no weights.
            border = torch.zeros(target.shape, device=target.device) if border is None else border
            return self._loss(logits, target, border), torch.zeros((), device=logits.device)
        terms: tuple[Tensor, Tensor] = self._loss.terms(logits, target)
        return terms

    def __call__(self, logits: Tensor, target: Tensor, border: Tensor | None = None) -> Tensor:
        """Sum of `terms`."""
        sample_mean, overlap = self.terms(logits, target, border)
        return sample_mean + overlap


def segmentation_loss_terms(
    network: nn.Module,
    batch: dict[str, Tensor],
    is_batch_dice: bool,
    ignore_label: int | None = None,
    sum_over_ranks: SumOverRanks | None = None,
    loss: str = DEFAULT_LOSS,
) -> tuple[Tensor, Tensor]:
    """Losses of a batch.

    Args:
        network: gives logits (B, K, *spatial), several of them, the finest first, or `SupervisedLogits`.
        batch: `image` (B, C, *spatial) float32, `target` (B, *spatial) int64, and for the border-weighted cross entropy
            `border` (B, *spatial) float32.
        is_batch_dice: whether sums of overlaps (Dice, IoU) run over the batch.
        ignore_label: of voxels without annotation.
        sum_over_ranks: adds a tensor up over the ranks of a distributed training, differentiably.
        loss: one of `LOSSES`.

    Returns:
        The part that is a mean over this rank's samples, and the part that already covers all ranks (the loss by
        overlap where that is taken over the whole batch); float32 scalars.
    """
    outputs, weights, presence = _supervised(network(batch["image"]))
    loss_of_output = SegmentationLoss(loss, is_batch_dice, ignore_label, sum_over_ranks)
    sample_mean = torch.zeros((), device=batch["image"].device)
    whole_batch = torch.zeros((), device=batch["image"].device)
    # The output of weight zero stays in the sum: each parameter has a gradient, as data parallelism wants it.
    for weight, logits in zip(weights, outputs, strict=True):
        target = downsample_target(batch["target"], logits.shape[2:])
        border = downsample_target(batch["border"], logits.shape[2:]) if "border" in batch else None
        mean_term, overlap = loss_of_output.terms(logits.float(), target, border)
        if is_batch_dice:
            sample_mean = sample_mean + weight * mean_term
            whole_batch = whole_batch + weight * overlap
        else:
            sample_mean = sample_mean + weight * (mean_term + overlap)
    if presence is not None:
        has_foreground = (batch["target"] > 0) & (batch["target"] != (-1 if ignore_label is None else ignore_label))
        sample_mean = sample_mean + functional.cross_entropy(presence.float(), has_foreground.flatten(1).any(1).long())
    return sample_mean, whole_batch


def _supervised(output: Tensor | list[Tensor] | SupervisedLogits) -> SupervisedLogits:
    if isinstance(output, SupervisedLogits):
        return output
    logits = [output] if isinstance(output, Tensor) else list(output)
    return SupervisedLogits(logits, tuple(deep_supervision_weights(len(logits))))
