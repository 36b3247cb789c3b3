from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.planning.memory import conv_elements, predicted_gib, reference


def test_every_convolution_counts_once() -> None:
    with torch.device("meta"):
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),  # 4 * 8 * 6
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 8, 3, stride=2, padding=1),  # 8 * 4 * 3
            nn.ConvTranspose2d(8, 2, 2, stride=2),  # 2 * 8 * 6
        )
    assert conv_elements(network, 1, (8, 6)) == 192 + 96 + 96
    assert network.training
    assert conv_elements(network, 1, (8, 6)) == 192 + 96 + 96


def test_reference_scales_with_memory() -> None:
    assert (reference(3, 8).elements, reference(3, 8).batch_size) == (560e6, 2)
    assert (reference(2, 16).elements, reference(2, 16).batch_size) == (170e6, 12)


def test_smallest_batch_decides() -> None:
    assert not reference(3, 8).is_too_much(560_000_000)
    assert reference(3, 8).is_too_much(560_000_001)
    assert not reference(2, 8).is_too_much(510_000_000)
    assert reference(2, 8).is_too_much(510_000_001)


@pytest.mark.parametrize(("elements", "batch", "dims", "gib"), [(560_000_000, 2, 3, 8), (85_000_000, 24, 2, 16)])
def test_prediction_is_linear(elements: int, batch: int, dims: int, gib: float) -> None:
    assert predicted_gib(elements, batch, dims) == pytest.approx(gib)
