"""The loss that segmentation networks train with, deep supervision included."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from repro_models.losses.deep_supervision import deep_supervision_weights, downsample_target
from repro_models.losses.dice_cross_entropy import DiceCrossEntropy


def segmentation_loss_terms(
    network: nn.Module,
    batch: dict[str, Tensor],
    is_batch_dice: bool,
    ignore_label: int | None = None,
    sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Losses of a batch.

    Args:
        network: gives logits (B, K, *spatial), or several of them, the finest first.
        batch: `image` (B, C, *spatial) float32 and `target` (B, *spatial) int64.
        is_batch_dice: whether Dice sums run over the batch.
        ignore_label: of voxels without annotation.
        sum_over_ranks: adds a tensor up over the ranks of a distributed training, differentiably.

    Returns:
        The part that is a mean over this rank's samples, and the part that already covers all ranks (the Dice
        loss where Dice is taken over the whole batch); float32 scalars.
    """
    outputs = network(batch["image"])
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    loss = DiceCrossEntropy(is_batch_dice, ignore_label, sum_over_ranks)
    sample_mean = torch.zeros((), device=batch["image"].device)
    whole_batch = torch.zeros((), device=batch["image"].device)
    # The output of weight zero stays in the sum: each parameter has a gradient, as data parallelism wants it.
    for weight, logits in zip(deep_supervision_weights(len(outputs)), outputs, strict=True):
        target = downsample_target(batch["target"], logits.shape[2:])
        cross_entropy, dice = loss.terms(logits.float(), target)
        if is_batch_dice:
            sample_mean = sample_mean + weight * cross_entropy
            whole_batch = whole_batch + weight * dice
        else:
            sample_mean = sample_mean + weight * (cross_entropy + dice)
    return sample_mean, whole_batch
