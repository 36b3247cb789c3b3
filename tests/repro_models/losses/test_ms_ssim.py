from __future__ import annotations

import pytest
import torch
from torch import Tensor

from repro_models.losses.ms_ssim import FORMS, MSSSIMLoss, ms_ssim


def disc(side: int, centre: tuple[int, int], radius: int) -> tuple[Tensor, Tensor]:
    """Distances to the centre, and whether they are below the radius, (side, side)."""
    steps = torch.arange(side, dtype=torch.float64)
    distance = ((steps[:, None] - centre[0]) ** 2 + (steps[None] - centre[1]) ** 2).sqrt()
    return distance, (distance < radius).double()


def example(name: str) -> tuple[Tensor, Tensor]:
    """Prediction and reference, (1, H, W)."""
    if name == "C":
        reference = disc(256, (128, 128), 64)[1]
        return torch.sigmoid((64 - disc(256, (134, 124), 64)[0]) / 4)[None], reference[None]
    reference = disc(192, (96, 96), 48)[1]
    if name == "A":
        return torch.sigmoid((48 - disc(192, (102, 92), 48)[0]) / 4)[None], reference[None]
    steps = torch.arange(192, dtype=torch.float64)
    waves = torch.sin(0.7 * steps[None] + 0.3 * steps[:, None])
    return (0.8 * reference + 0.1 + 0.05 * waves).clamp(0, 1)[None], reference[None]


@pytest.mark.parametrize(
    ("name", "form", "expected"),
    [
        ("A", "wang", 1 - 0.2126186),
        ("A", "every_scale", 1 - 0.3270513),
        ("A", "repository", 0.7608233),
        ("B", "wang", 1 - 0.2476534),
        ("B", "every_scale", 1 - 0.6010044),
        ("B", "repository", 0.7439463),
        ("C", "wang", 1 - 0.1612257),
        ("C", "every_scale", 1 - 0.252395),
        ("C", "repository", 0.8151186),
    ],
)
def test_the_published_examples(name: str, form: str, expected: float) -> None:
    assert ms_ssim(*example(name), form, num_scales=5).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("name", "expected"), [("A", 0.8795705), ("B", 0.8775739), ("C", 0.9068078)])
def test_the_class_of_the_published_code_maps_factors_to_0_1(name: str, expected: float) -> None:
    assert ms_ssim(*example(name), "repository", is_normalised=True).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("name", "expected"), [("A", 0.7246323), ("B", 0.1554452)])
def test_one_scale_is_ssim(name: str, expected: float) -> None:
    assert ms_ssim(*example(name), num_scales=1).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_equal_maps_have_a_similarity_of_one(form: str) -> None:
    maps = example("A")[0]
    assert ms_ssim(maps, maps, form).item() == pytest.approx(1)


def logits_of(probabilities: Tensor) -> Tensor:
    """(N, H, W) -> (N, 2, H, W)."""
    logits = torch.logit(probabilities, eps=1e-12)
    return torch.stack([torch.zeros_like(logits), logits], dim=1)


def test_the_loss_is_one_minus_the_mean_over_samples_and_foreground_classes() -> None:
    (p, g), (q, h) = example("A"), example("B")
    loss = MSSSIMLoss()(logits_of(torch.cat([p, q])), torch.cat([g, h]).long())
    assert loss.item() == pytest.approx((0.2126186 + 0.2476534) / 2, abs=1e-7)
    # A third class that is nowhere and said to be nowhere is like itself.
    three = torch.cat([logits_of(p), torch.full((1, 1, 192, 192), -60.0, dtype=torch.float64)], dim=1)
    assert MSSSIMLoss()(three, g.long()).item() == pytest.approx(0.2126186 / 2, abs=1e-7)


def test_maps_that_are_opposite_have_a_finite_gradient() -> None:
    g = example("A")[1]
    logits = logits_of(1 - 0.9 * g - 0.05).requires_grad_()
    loss = MSSSIMLoss()(logits, g.long())
    assert loss.item() > 0.9
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("side", "num_scales"), [(1, 1), (10, 1), (11, 1), (21, 1), (22, 2), (175, 4), (176, 5), (400, 5)]
)
def test_there_are_as_many_scales_as_the_window_fits(side: int, num_scales: int) -> None:
    generator = torch.Generator().manual_seed(0)
    p, g = torch.rand(2, 1, side, side, generator=generator, dtype=torch.float64)
    assert torch.equal(ms_ssim(p, g), ms_ssim(p, g, num_scales=num_scales))
    if num_scales < 5:
        with pytest.raises(ValueError, match=f"num_scales={num_scales + 1}: images with a side of {side} have"):
            ms_ssim(p, g, num_scales=num_scales + 1)


def test_an_image_smaller_than_the_window_is_its_window_by_hand() -> None:
    # Of two by two pixels each weighs a quarter: means 1/2 and 1/4, variances 1/4 and 3/16, covariance 1/8.
    p = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    g = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    luminance = (1 / 4 + 1e-4) / (1 / 4 + 1 / 16 + 1e-4)
    structure = (1 / 4 + 9e-4) / (1 / 4 + 3 / 16 + 9e-4)
    assert ms_ssim(p, g).item() == pytest.approx(luminance * structure)


def test_fewer_scales_share_the_weight_of_all() -> None:
    # A constant against another: the contrast factor is 1, and luminance that of one scale.
    p, g = torch.full((1, 44, 44), 0.5, dtype=torch.float64), torch.ones(1, 44, 44, dtype=torch.float64)
    luminance = (2 * 0.5 + 1e-4) / (1.25 + 1e-4)
    assert ms_ssim(p, g, "every_scale").item() == pytest.approx(luminance)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((1, 2, 16, 16, 16), {}, "images of 3 dimensions: it serves 2; set the entry's configuration to 2d"),
        ((1, 2, 16, 16), {"form": "other"}, "form='other': must be one of wang, every_scale, repository"),
        ((1, 2, 16, 16), {"num_scales": 6}, "num_scales=6: must be from 1 to 5"),
    ],
)
def test_what_it_cannot_take_is_refused_with_the_rule(
    shape: tuple[int, ...], settings: dict[str, object], message: str
) -> None:
    target = torch.zeros(shape[0], *shape[2:], dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        MSSSIMLoss(**settings)(torch.zeros(shape), target)  # type: ignore[arg-type]


def test_ignored_pixels_get_no_gradient() -> None:
    target = torch.randint(0, 2, (1, 32, 32), generator=torch.Generator().manual_seed(0))
    target[:, :8] = 2
    logits = torch.zeros(1, 2, 32, 32, requires_grad=True)
    MSSSIMLoss(ignore_label=2)(logits, target).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, :8] == 0).all()
    assert (logits.grad[:, :, 8:] != 0).any()
