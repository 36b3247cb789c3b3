from __future__ import annotations

import pytest
import torch

from repro_models.losses.focal import FocalLoss
from repro_models.losses.iou import IoULoss
from repro_models.losses.ms_ssim import MSSSIMLoss
from repro_models.losses.unet_3_plus_loss import UNet3PlusLoss


def test_it_is_the_sum_of_its_three_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 24, 32, generator=generator)
    target = torch.randint(0, 3, (2, 24, 32), generator=generator)
    sample_mean, overlap = UNet3PlusLoss().terms(logits, target)
    expected = FocalLoss()(logits, target) + MSSSIMLoss()(logits, target)
    assert sample_mean.item() == pytest.approx(expected.item())
    assert overlap.item() == pytest.approx(IoULoss()(logits, target).item())
    assert UNet3PlusLoss()(logits, target).item() == pytest.approx((sample_mean + overlap).item())
    printed = UNet3PlusLoss(ms_ssim_form="every_scale")(logits, target) - UNet3PlusLoss()(logits, target)
    difference = MSSSIMLoss("every_scale")(logits, target) - MSSSIMLoss()(logits, target)
    assert printed.item() == pytest.approx(difference.item(), abs=1e-6)


def test_a_perfect_prediction_costs_nothing() -> None:
    target = torch.zeros(1, 32, 32, dtype=torch.int64)
    target[:, 8:20, 8:20] = 1
    logits = 40 * torch.nn.functional.one_hot(target, 2).movedim(-1, 1).float()
    assert UNet3PlusLoss()(logits, target).item() == pytest.approx(0, abs=1e-5)
