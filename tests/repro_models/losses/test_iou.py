from __future__ import annotations

import pytest
import torch

from repro_models.losses.iou import IoULoss

# Two voxels with p = 1/2; one is foreground: 0.5 / (1 + 1 - 0.5).
LOGITS, TARGET = torch.zeros(1, 2, 2), torch.tensor([[1, 0]])


def test_by_hand() -> None:
    assert IoULoss(smooth=0)(LOGITS, TARGET).item() == pytest.approx(1 - 0.5 / 1.5)
    assert IoULoss(smooth=0.5)(LOGITS, TARGET).item() == pytest.approx(1 - 1 / 2)


def test_it_is_the_dice_loss_by_another_scale() -> None:
    from repro_models.losses.dice import DiceLoss

    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(1, 2, 5, 6, generator=generator), torch.randint(0, 2, (1, 5, 6), generator=generator)
    dice = 1 - DiceLoss(is_squared=False, smooth=0)(logits, target).item()
    assert IoULoss(smooth=0)(logits, target).item() == pytest.approx(1 - dice / (2 - dice), rel=1e-5)


def test_sums_over_the_batch_are_divided_once_by_hand() -> None:
    logits, target = torch.zeros(2, 2, 2), torch.tensor([[0, 0], [1, 1]])
    assert IoULoss(smooth=0)(logits, target).item() == pytest.approx(1 - (0 + 1 / 2) / 2)
    assert IoULoss(is_batch=True, smooth=0)(logits, target).item() == pytest.approx(1 - 1 / 3)


def test_a_perfect_prediction_costs_nothing_and_a_class_found_nowhere_neither() -> None:
    target = torch.tensor([[0, 1, 1, 0]])
    logits = 100 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert IoULoss()(logits, target).item() == pytest.approx(0, abs=1e-6)


def test_ignored_voxels_are_as_if_absent() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 3, 6, generator=generator), torch.randint(0, 3, (2, 6), generator=generator)
    ignored = target.clone()
    ignored[:, 4:] = 3
    loss = IoULoss(ignore_label=3)
    assert loss(logits, ignored).item() == pytest.approx(loss(logits[..., :4], target[..., :4]).item(), rel=1e-6)
