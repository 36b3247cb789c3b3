from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipelines.preprocessing.border import border_weights
from repro_models.losses.border_weighted_cross_entropy import BorderWeightedCrossEntropy


def example(is_background_only: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, target and border of two cells."""
    instances = torch.zeros(6, 10, dtype=torch.int64)
    instances[1:5, 1:4], instances[1:5, 6:9] = 1, 2
    steps = torch.arange(60, dtype=torch.float64).view(6, 10)
    logits = torch.stack([torch.sin(0.3 * steps), torch.cos(0.2 * steps)])[None]
    border = border_weights(instances.numpy(), is_background_only=is_background_only)
    return logits, (instances > 0).long()[None], torch.from_numpy(border)[None]


@pytest.mark.parametrize(
    ("is_background_only", "settings", "expected"),
    [
        (False, {}, 6.1706172),
        (False, {"divides_by_weights": True}, 0.8322128),
        (True, {}, 3.5971648),
        (False, {"balances_classes": True}, 6.1801946),
    ],
)
def test_the_published_examples(is_background_only: bool, settings: dict[str, bool], expected: float) -> None:
    loss = BorderWeightedCrossEntropy(**settings)(*example(is_background_only))
    # The map of weights is float32.
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_without_gaps_it_is_cross_entropy() -> None:
    logits, target, border = example()
    loss = BorderWeightedCrossEntropy()(logits, target, torch.zeros_like(border))
    assert (60 * loss).item() == pytest.approx(49.7678854, abs=1e-6)


@pytest.mark.parametrize("balances_classes", [False, True])
@pytest.mark.parametrize("divides_by_weights", [False, True])
def test_ignored_voxels_are_as_if_absent(balances_classes: bool, divides_by_weights: bool) -> None:
    logits, target, border = example()
    ignored = target.clone()
    ignored[:, :, 7:] = 2
    loss = BorderWeightedCrossEntropy(balances_classes, divides_by_weights, ignore_label=2)
    expected = loss(logits[..., :7], target[..., :7], border[..., :7])
    assert loss(logits, ignored, border).item() == pytest.approx(expected.item(), rel=1e-9)
    assert loss(logits, torch.full_like(target, 2), border).item() == 0
