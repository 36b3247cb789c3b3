from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from repro_models.blocks import dense_crf
from repro_models.blocks.dense_crf import DenseCRF


def mean_field_by_loops(
    logits: Tensor,
    image: Tensor,
    bilateral: tuple[float, float, float],
    gaussian: tuple[float, float],
    num_iterations: int,
) -> Tensor:
    """Mean field as it is written: one sample, pair by pair, label by label. (K, *s), (C, *s) -> (K, *s)."""
    num_classes, size = logits.shape[0], logits.shape[1:]
    pixels = list(itertools.product(*(range(side) for side in size)))
    unary = -logits.log_softmax(0)

    def kernel(i: tuple[int, ...], j: tuple[int, ...]) -> float:
        place = sum((a - b) ** 2 for a, b in zip(i, j, strict=True))
        colour = sum((float(channel[i]) - float(channel[j])) ** 2 for channel in image)
        weight, std_place, std_colour = bilateral
        value = weight * math.exp(-place / (2 * std_place**2) - colour / (2 * std_colour**2))
        weight, std_place = gaussian
        return value + weight * math.exp(-place / (2 * std_place**2))

    q = (-unary).exp()
    for _ in range(num_iterations):
        energy = torch.empty_like(unary)
        for i in pixels:
            for label in range(num_classes):
                pairwise = sum(
                    kernel(i, j) * float(q[(other, *j)])
                    for j in pixels
                    if j != i
                    for other in range(num_classes)
                    if other != label
                )
                energy[(label, *i)] = unary[(label, *i)] + pairwise
        q = (-energy).softmax(0)
    return q


@pytest.mark.parametrize(("size", "num_channels"), [((3, 4), 1), ((2, 3), 3), ((2, 2, 2), 1)])
@pytest.mark.parametrize("rows_at_once", [1, 5, 1000])
def test_equals_the_sum_over_all_pairs_written_as_loops(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, ...], num_channels: int, rows_at_once: int
) -> None:
    monkeypatch.setattr(dense_crf, "_PAIRS_AT_ONCE", rows_at_once * math.prod(size))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    image = torch.randn(2, num_channels, *size, generator=generator, dtype=torch.float64)
    refined = DenseCRF(0.7, 2.0, 0.8, 0.4, 1.5, num_iterations=3)(logits, image).exp()
    for sample in range(2):
        expected = mean_field_by_loops(logits[sample], image[sample], (0.7, 2.0, 0.8), (0.4, 1.5), 3)
        torch.testing.assert_close(refined[sample], expected, rtol=1e-12, atol=1e-12)


def test_two_pixels_by_hand() -> None:
    """P = (0.8, 0.2) and (0.4, 0.6), one apart, equal intensities: the kernel is (2 + 1) exp(-1/2) = 3 / sqrt(e).

    Of the first pixel Q ~ (0.8 exp(0.4 k), 0.2 exp(0.6 k)), of the second one (0.4 exp(0.8 k), 0.6 exp(0.2 k)).
    """
    k = 3 / math.sqrt(math.e)
    first = 0.8 * math.exp(0.4 * k) / (0.8 * math.exp(0.4 * k) + 0.2 * math.exp(0.6 * k))
    second = 0.4 * math.exp(0.8 * k) / (0.4 * math.exp(0.8 * k) + 0.6 * math.exp(0.2 * k))
    logits = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).log().reshape(1, 2, 1, 2)
    refined = DenseCRF(2.0, 1.0, 5.0, 1.0, 1.0, num_iterations=1)(logits, torch.full((1, 1, 1, 2), 7.0)).exp()
    torch.testing.assert_close(refined[0, 0, 0], torch.tensor([first, second]))
    assert refined[0, 0, 0, 1] > 0.5  # the second pixel takes the label of the first


def test_an_edge_of_the_image_keeps_labels_apart() -> None:
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 3] = 3.0
    crf = DenseCRF(5.0, 3.0, 0.1, 0.0, 1.0)
    edge = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 1, 4)
    assert crf(logits, edge).argmax(1).flatten().tolist() == [0, 0, 1, 1]
    torch.testing.assert_close(crf(logits, edge).exp().sum(1), torch.ones(1, 1, 4))


def test_no_iteration_gives_the_probabilities_as_they_are() -> None:
    logits = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(DenseCRF(num_iterations=0)(logits, torch.zeros(1, 1, 2, 2)), logits.log_softmax(1))


def test_gradients_reach_the_logits_and_the_image() -> None:
    logits, image = torch.randn(1, 2, 3, 3, requires_grad=True), torch.randn(1, 1, 3, 3, requires_grad=True)
    DenseCRF(1.0, 2.0, 1.0, 1.0, 1.0, 2)(logits, image)[:, 0].sum().backward()
    assert logits.grad is not None
    assert image.grad is not None
    assert logits.grad.abs().min() > 0
    assert image.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gaussian_std_pixels": 0.0}, r"standard deviations \(67.0, 3.0, 0.0\): must be above 0"),
        ({"num_iterations": -1}, "num_iterations=-1: must be 0 or more"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_rule(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseCRF(**arguments)
