from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pipelines.tasks.segmentation_loss import segmentation_loss_terms
from repro_models.contract import SupervisedLogits


class _Says(nn.Module):
    """A network that returns what it was made with."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> object:
        return self.output


BATCH = {"image": torch.zeros(2, 1, 4, 4), "target": torch.zeros(2, 4, 4, dtype=torch.int64)}
BATCH["target"][0, 1, 1] = 1
SURE = torch.stack([20.0 - 40 * (BATCH["target"] == 1), -20.0 + 40 * (BATCH["target"] == 1)], dim=1)
EVEN = torch.zeros(2, 2, 4, 4)


def loss(output: object, ignore_label: int | None = None, target: Tensor | None = None) -> float:
    batch = BATCH if target is None else {**BATCH, "target": target}
    return sum(segmentation_loss_terms(_Says(output), batch, is_batch_dice=True, ignore_label=ignore_label)).item()  # type: ignore[union-attr]


def test_the_weights_that_a_network_gives_are_those_of_its_outputs() -> None:
    assert loss(SupervisedLogits([SURE, EVEN], (1.0, 0.25))) == pytest.approx(loss(SURE) + 0.25 * loss(EVEN), rel=1e-5)


def test_a_plain_list_has_the_weights_of_nnunet() -> None:
    assert loss([SURE, EVEN, EVEN]) == pytest.approx((2 * loss(SURE) + loss(EVEN)) / 3, rel=1e-5)


def test_a_guess_whether_there_is_foreground_costs_its_cross_entropy() -> None:
    # The first image has foreground, the second none: right by 3 and wrong by 1.
    presence = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    expected = (math.log1p(math.exp(-3)) + math.log1p(math.exp(1))) / 2
    extra = loss(SupervisedLogits([SURE], (1.0,), presence)) - loss(SURE)
    assert extra == pytest.approx(expected, rel=1e-4)


def test_voxels_that_nobody_annotated_are_no_foreground() -> None:
    target = torch.full((2, 4, 4), 2)
    presence = torch.tensor([[3.0, 0.0], [3.0, 0.0]])
    with_guess = loss(SupervisedLogits([EVEN], (1.0,), presence), ignore_label=2, target=target)
    without = loss(EVEN, ignore_label=2, target=target)
    assert with_guess - without == pytest.approx(math.log1p(math.exp(-3)), rel=1e-4)
