"""The loss that segmentation networks train with, deep supervision included."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from repro_models.contract import SupervisedLogits
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
        network: gives logits (B, K, *spatial), several of them, the finest first, or `SupervisedLogits`.
        batch: `image` (B, C, *spatial) float32 and `target` (B, *spatial) int64.
        is_batch_dice: whether Dice sums run over the batch.
        ignore_label: of voxels without annotation.
        sum_over_ranks: adds a tensor up over the ranks of a distributed training, differentiably.

    Returns:
        The part that is a mean over this rank's samples, and the part that already covers all ranks (the Dice
        loss where Dice is taken over the whole batch); float32 scalars.
    """
    outputs, weights, presence = _supervised(network(batch["image"]))
    loss = DiceCrossEntropy(is_batch_dice, ignore_label, sum_over_ranks)
    sample_mean = torch.zeros((), device=batch["image"].device)
    whole_batch = torch.zeros((), device=batch["image"].device)
    # The output of weight zero stays in the sum: each parameter has a gradient, as data parallelism wants it.
    for weight, logits in zip(weights, outputs, strict=True):
        target = downsample_target(batch["target"], logits.shape[2:])
        cross_entropy, dice = loss.terms(logits.float(), target)
        if is_batch_dice:
            sample_mean = sample_mean + weight * cross_entropy
            whole_batch = whole_batch + weight * dice
        else:
            sample_mean = sample_mean + weight * (cross_entropy + dice)
    if presence is not None:
        has_foreground = (batch["target"] > 0) & (batch["target"] != (-1 if ignore_label is None else ignore_label))
        sample_mean = sample_mean + functional.cross_entropy(presence.float(), has_foreground.flatten(1).any(1).long())
    return sample_mean, whole_batch


def _supervised(output: Tensor | list[Tensor] | SupervisedLogits) -> SupervisedLogits:
    if isinstance(output, SupervisedLogits):
        return output
    logits = [output] if isinstance(output, Tensor) else list(output)
    return SupervisedLogits(logits, tuple(deep_supervision_weights(len(logits))))
