from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from repro_models.losses.dice_cross_entropy import DiceCrossEntropy


def example() -> tuple[Tensor, Tensor]:
    return (torch.arange(48) % 5 / 5).reshape(2, 3, 2, 2, 2), (torch.arange(16) % 3).reshape(2, 2, 2, 2)


def random_example(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 5, 6, generator=generator), torch.randint(0, 3, (4, 5, 6), generator=generator)


@pytest.mark.parametrize(("is_batch_dice", "expected"), [(False, 0.84432471), (True, 0.84303719)])
def test_loss_equals_nnunet(is_batch_dice: bool, expected: float) -> None:
    # nnunetv2 2.8.1 gave these eight digits in float32, which carries seven.
    assert DiceCrossEntropy(is_batch_dice)(*example()).item() == pytest.approx(expected, abs=2e-7)


def test_terms_by_hand() -> None:
    # Two voxels, both classes equally probable; one voxel is foreground: 2 * 0.5 / (1 + 1).
    cross_entropy, dice = DiceCrossEntropy(False).terms(torch.zeros(1, 2, 2), torch.tensor([[1, 0]]))
    assert cross_entropy.item() == pytest.approx(math.log(2))
    assert dice.item() == pytest.approx(-(1 + 1e-5) / (2 + 1e-5))


def test_batch_dice_adds_up_before_it_divides_by_hand() -> None:
    # Sample 1: p = 0.5 0.5, no foreground. Sample 2: p = 0.5 0.5, all foreground.
    logits, target = torch.zeros(2, 2, 2), torch.tensor([[0, 0], [1, 1]])
    per_sample = -(1e-5 / (1 + 1e-5) + (2 + 1e-5) / (3 + 1e-5)) / 2
    assert DiceCrossEntropy(False).dice(logits, target).item() == pytest.approx(per_sample)
    assert DiceCrossEntropy(True).dice(logits, target).item() == pytest.approx(-(2 + 1e-5) / (4 + 1e-5))


@pytest.mark.parametrize("is_batch_dice", [False, True])
def test_perfect_prediction_has_loss_minus_one(is_batch_dice: bool) -> None:
    target = random_example()[1]
    logits = 100 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert DiceCrossEntropy(is_batch_dice)(logits, target).item() == pytest.approx(-1)


def test_class_that_is_nowhere_and_predicted_nowhere_counts_as_found() -> None:
    logits = torch.tensor([100.0, 0.0])[None, :, None].expand(1, 2, 8)
    assert DiceCrossEntropy(False).dice(logits, torch.zeros(1, 8, dtype=torch.int64)).item() == pytest.approx(-1)


@pytest.mark.parametrize("is_batch_dice", [False, True])
def test_ignored_voxels_are_as_if_absent(is_batch_dice: bool) -> None:
    logits, target = random_example()
    ignored = target.clone()
    ignored[:, 3:] = 3
    loss = DiceCrossEntropy(is_batch_dice, ignore_label=3)
    assert loss(logits, ignored).item() == pytest.approx(loss(logits[:, :, :3], target[:, :3]).item(), rel=1e-6)


def test_ignored_voxels_get_no_gradient() -> None:
    logits, target = random_example()
    target[0, 0] = 3
    logits.requires_grad_()
    DiceCrossEntropy(True, ignore_label=3)(logits, target).backward()
    assert logits.grad is not None
    assert (logits.grad[0, :, 0] == 0).all()
    assert (logits.grad[0, :, 1] != 0).all()


@pytest.mark.parametrize("is_batch_dice", [False, True])
def test_nothing_annotated_is_finite_and_teaches_nothing(is_batch_dice: bool) -> None:
    logits, target = random_example()
    logits.requires_grad_()
    loss = DiceCrossEntropy(is_batch_dice, ignore_label=3)
    cross_entropy, dice = loss.terms(logits, torch.full_like(target, 3))
    assert cross_entropy.item() == 0
    assert dice.item() == pytest.approx(-1)
    (cross_entropy + dice).backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_batch_dice_over_two_ranks_equals_one_batch() -> None:
    logits, target = random_example()
    sums: list[Tensor] = []

    def record(own: Tensor) -> Tensor:
        sums.append(own)
        return own

    for half in (slice(0, 2), slice(2, 4)):
        DiceCrossEntropy(True, reduce_sums=record).dice(logits[half], target[half])
    rank = DiceCrossEntropy(True, reduce_sums=lambda own: own + sums[1])
    expected = DiceCrossEntropy(True).dice(logits, target)
    torch.testing.assert_close(rank.dice(logits[:2], target[:2]), expected)


def test_dice_per_sample_needs_no_other_rank() -> None:
    def fail(sums: Tensor) -> Tensor:
        raise AssertionError("sums of a sample are complete on its rank")

    logits, target = random_example()
    expected = DiceCrossEntropy(False)(logits, target)
    assert torch.equal(DiceCrossEntropy(False, reduce_sums=fail)(logits, target), expected)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, target = torch.zeros(1, 2, 100_000, dtype=torch.float16), torch.ones(1, 100_000, dtype=torch.int64)
    loss = DiceCrossEntropy(False)(logits, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(2) - 2 / 3, rel=1e-5)
