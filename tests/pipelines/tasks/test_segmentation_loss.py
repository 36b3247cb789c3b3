from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import Tensor, nn

from pipelines.params import Training
from pipelines.planning.overrides import check_overrides
from pipelines.tasks.segmentation_loss import LOSSES, segmentation_loss_terms
from repro_models.contract import SupervisedLogits
from repro_models.losses.border_weighted_cross_entropy import BorderWeightedCrossEntropy
from repro_models.losses.dice import DiceLoss
from repro_models.losses.dice_cross_entropy import DiceCrossEntropy
from repro_models.losses.focal import FocalLoss
from repro_models.losses.iou import IoULoss
from repro_models.losses.ms_ssim import MSSSIMLoss
from repro_models.losses.unet_3_plus_loss import UNet3PlusLoss


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


def test_params_overrides_and_the_task_know_the_same_losses() -> None:
    assert typing.get_args(typing.get_type_hints(Training)["loss"]) == LOSSES
    assert Training().loss == LOSSES[0]
    with pytest.raises(ValueError) as error:
        check_overrides({"loss": "dise"})
    assert str(error.value) == f"override loss is 'dise'; it must be one of {', '.join(LOSSES)}"
    for name in LOSSES:
        check_overrides({"loss": name})


def _batch(side: int = 24) -> tuple[dict[str, Tensor], Tensor]:
    """A batch with some unannotated pixels, of label 3, and logits of three classes."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, side, side), generator=generator)
    logits = torch.randn(2, 3, side, side, generator=generator)
    return {"image": torch.zeros(2, 1, side, side), "target": target}, logits


EXPECTED = {
    "dice_cross_entropy": lambda is_batch: DiceCrossEntropy(is_batch, 3),
    "dice": lambda is_batch: DiceLoss(False, is_batch, ignore_label=3),
    "vnet_dice": lambda is_batch: DiceLoss(True, is_batch, ignore_label=3),
    "iou": lambda is_batch: IoULoss(is_batch, ignore_label=3),
    "focal": lambda is_batch: FocalLoss(ignore_label=3),
    "ms_ssim": lambda is_batch: MSSSIMLoss(ignore_label=3),
    "unet_3_plus": lambda is_batch: UNet3PlusLoss(is_batch, ignore_label=3),
}


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_name_is_its_loss(name: str, is_batch: bool) -> None:
    batch, logits = _batch()
    terms = segmentation_loss_terms(_Says(logits), batch, is_batch, ignore_label=3, loss=name)
    expected = EXPECTED[name](is_batch)(logits, batch["target"])
    assert sum(terms).item() == pytest.approx(expected.item(), rel=1e-6)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", LOSSES)
def test_only_overlaps_over_the_batch_are_added_up_over_ranks(name: str) -> None:
    batch, logits = _batch()
    told: list[Tensor] = []

    def remember(sums: Tensor) -> Tensor:
        told.append(sums)
        return sums

    _, whole_batch = segmentation_loss_terms(_Says(logits), batch, True, 3, remember, loss=name)
    has_overlap = name not in ("focal", "ms_ssim", "border_weighted_cross_entropy")
    assert len(told) == has_overlap
    assert (whole_batch.item() != 0) is has_overlap
    _, whole_batch = segmentation_loss_terms(_Says(logits), batch, False, 3, remember, loss=name)
    assert len(told) == has_overlap
    assert whole_batch.item() == 0


def test_gaps_weigh_at_every_resolution_as_they_do_at_the_first() -> None:
    batch, logits = _batch()
    batch["border"] = torch.rand(2, 24, 24, generator=torch.Generator().manual_seed(1))
    coarse = logits[:, :, ::2, ::2]
    output = SupervisedLogits([logits, coarse], (1.0, 0.5))
    terms = segmentation_loss_terms(_Says(output), batch, True, 3, loss="border_weighted_cross_entropy")
    loss = BorderWeightedCrossEntropy(ignore_label=3)
    # Of the pixel whose centre is nearest, as labels are.
    target, border = batch["target"][:, 1::2, 1::2], batch["border"][:, 1::2, 1::2]
    expected = loss(logits, batch["target"], batch["border"]) + 0.5 * loss(coarse, target, border)
    assert sum(terms).item() == pytest.approx(expected.item(), rel=1e-6)  # type: ignore[union-attr]


def test_without_weights_of_gaps_which_planning_has_not_it_is_cross_entropy() -> None:
    batch, logits = _batch()
    terms = segmentation_loss_terms(_Says(logits), batch, True, 3, loss="border_weighted_cross_entropy")
    expected = torch.nn.functional.cross_entropy(logits, batch["target"], ignore_index=3)
    assert sum(terms).item() == pytest.approx(expected.item(), rel=1e-6)  # type: ignore[union-attr]
