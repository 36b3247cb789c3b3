from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repro_models.losses.dice import DiceLoss


def two_classes(probabilities: Tensor) -> Tensor:
    """Logits (1, 2, *s) whose foreground has these probabilities (*s)."""
    return torch.stack([torch.zeros_like(probabilities), torch.logit(probabilities)])[None]


SMALL = (torch.tensor([0.9, 0.2, 0.6, 0.1], dtype=torch.float64), torch.tensor([[1, 0, 1, 0]]))
_STEPS = torch.arange(27, dtype=torch.float64).view(3, 3, 3)
CUBE = (torch.sigmoid(torch.sin(_STEPS)), (_STEPS % 3 == 0).long()[None])


@pytest.mark.parametrize(
    ("example", "is_squared", "expected"),
    [(SMALL, True, 0.068323), (SMALL, False, 0.2105263), (CUBE, True, 0.4714034), (CUBE, False, 0.6117976)],
)
def test_the_published_examples(example: tuple[Tensor, Tensor], is_squared: bool, expected: float) -> None:
    probabilities, target = example
    loss = DiceLoss(is_squared, smooth=0)(two_classes(probabilities), target)
    # The formula gives 0.47140327 for the third, whose stored digits end one higher.
    assert loss.item() == pytest.approx(expected, abs=1.5e-7)


def test_the_gradient_is_the_one_that_the_paper_prints() -> None:
    probabilities, target = SMALL
    logits = torch.logit(probabilities).requires_grad_()
    DiceLoss(smooth=0)(torch.stack([torch.zeros_like(logits), logits])[None], target).backward()
    assert logits.grad is not None
    by_probability = logits.grad / (probabilities * (1 - probabilities))
    assert by_probability.tolist() == pytest.approx([-0.1003048, 0.1157363, -0.2739092, 0.0578681], abs=1e-7)


@pytest.mark.parametrize(("smooth", "expected"), [(0.0, 1.0), (8e-4, 0.5)])
def test_a_class_that_is_absent_costs_all_without_smoothing(smooth: float, expected: float) -> None:
    # Eight voxels of 0.01: the sum of squares is 8e-4.
    logits = two_classes(torch.full((8,), 0.01, dtype=torch.float64))
    loss = DiceLoss(smooth=smooth)(logits, torch.zeros(1, 8, dtype=torch.int64))
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("is_squared", [False, True])
def test_a_perfect_prediction_costs_nothing_and_a_class_found_nowhere_neither(is_squared: bool) -> None:
    target = torch.tensor([[0, 1, 1, 0]])
    logits = 100 * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    assert DiceLoss(is_squared)(logits, target).item() == pytest.approx(0, abs=1e-6)


def test_nothing_divided_by_nothing_is_a_loss_of_one() -> None:
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1).expand(1, 2, 4)
    assert DiceLoss(smooth=0)(logits, torch.zeros(1, 4, dtype=torch.int64)).item() == 1


def test_sums_over_the_batch_are_divided_once_by_hand() -> None:
    # Sample 1: p = 1/2, no foreground. Sample 2: p = 1/2, all foreground. Squares of p are 1/4.
    logits, target = torch.zeros(2, 2, 2), torch.tensor([[0, 0], [1, 1]])
    assert DiceLoss(smooth=0)(logits, target).item() == pytest.approx(1 - (0 + 2 / 2.5) / 2)
    assert DiceLoss(is_batch=True, smooth=0)(logits, target).item() == pytest.approx(1 - 2 / 3)
    assert DiceLoss(False, is_batch=True, smooth=0)(logits, target).item() == pytest.approx(1 - 2 / 4)


@pytest.mark.parametrize("is_batch", [False, True])
def test_ignored_voxels_are_as_if_absent(is_batch: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 6, generator=generator), torch.randint(0, 3, (2, 4, 6), generator=generator)
    ignored = target.clone()
    ignored[:, :, 4:] = 3
    loss = DiceLoss(is_batch=is_batch, ignore_label=3)
    assert loss(logits, ignored).item() == pytest.approx(loss(logits[..., :4], target[..., :4]).item(), rel=1e-6)


def test_ranks_add_up_their_sums_of_the_batch_and_of_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(4, 3, 5, generator=generator), torch.randint(0, 3, (4, 5), generator=generator)
    told: list[Tensor] = []

    def remember(sums: Tensor) -> Tensor:
        told.append(sums)
        return sums

    for half in (slice(0, 2), slice(2, 4)):
        DiceLoss(is_batch=True, reduce_sums=remember)(logits[half], target[half])
    rank = DiceLoss(is_batch=True, reduce_sums=lambda sums: sums + told[1])
    torch.testing.assert_close(rank(logits[:2], target[:2]), DiceLoss(is_batch=True)(logits, target))
    DiceLoss(is_batch=False, reduce_sums=remember)(logits, target)
    assert len(told) == 2


def test_half_precision_is_summed_in_float32() -> None:
    logits, target = torch.zeros(1, 2, 100_000, dtype=torch.float16), torch.ones(1, 100_000, dtype=torch.int64)
    loss = DiceLoss(False)(logits, target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 - 2 / 3, rel=1e-5)
