"""Sums over voxels that losses by overlap are made of: how much is predicted, how much is there, and how much is both.

Shapes:
    B batch, K classes (background is 0), *s voxels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

NO_LABEL = -100


class RegionSums(NamedTuple):
    """One number for each foreground class: each (B, K - 1), or (K - 1,) over the batch.

    Attributes:
        intersection: sum of p y.
        predicted: sum of p, or of p^2.
        reference: sum of y, which is that of y^2.
    """

    intersection: Tensor
    predicted: Tensor
    reference: Tensor


def region_sums(
    logits: Tensor,
    target: Tensor,
    *,
    is_batch: bool,
    ignore_label: int | None = None,
    is_squared: bool = False,
    reduce_sums: Callable[[Tensor], Tensor] | None = None,
) -> RegionSums:
    """Sums over annotated voxels, p being softmax probabilities.

    Args:
        logits: (B, K, *s).
        target: (B, *s) int64, labels 0 to K - 1 or the ignore label.
        is_batch: over the whole batch, not per sample.
        ignore_label: of voxels that nobody annotated.
        is_squared: take the squares of the probabilities.
        reduce_sums: adds a tensor up over the ranks of a distributed training, differentiably; asked with `is_batch`
            only.
    """
    probabilities = in_float(logits).softmax(dim=1)[:, 1:]
    if ignore_label is not None:
        probabilities = probabilities * (target != ignore_label).unsqueeze(1)
    is_class = one_against_the_rest(target, logits.shape[1])[:, 1:]
    axes = [0, *range(2, logits.ndim)] if is_batch else list(range(2, logits.ndim))
    predicted = probabilities.square() if is_squared else probabilities
    sums = torch.stack(
        [(probabilities * is_class).sum(axes), predicted.sum(axes), is_class.sum(axes).to(probabilities)]
    )
    if is_batch and reduce_sums is not None:
        sums = reduce_sums(sums)
    return RegionSums(*sums)


def one_against_the_rest(target: Tensor, num_classes: int) -> Tensor:
    """(B, *s) int64 -> (B, K, *s) bool; a label that is no class is none."""
    classes = torch.arange(num_classes, device=target.device).view(-1, *[1] * (target.ndim - 1))
    return target.unsqueeze(1) == classes


def in_float(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 where they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
