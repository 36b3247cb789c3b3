from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from pipelines.augmentation.intensity import (
    BackgroundOutside,
    Blur,
    Brightness,
    Contrast,
    Gamma,
    LowResolution,
    Noise,
    RandomBlur,
    RandomBrightness,
    RandomContrast,
    RandomGamma,
    RandomLowResolution,
    RandomNoise,
    ZeroOutside,
)

IMAGE = torch.randn(2, 6, 8, 10, generator=torch.Generator().manual_seed(0)) * 2 + 1
LABEL = torch.zeros(6, 8, 10, dtype=torch.int64)


@pytest.mark.parametrize(
    "transform",
    [
        Noise(0.0, 3),
        Blur((None, None)),
        Blur(((1e-3,) * 3, (1e-3,) * 3)),
        Brightness((1.0, 1.0)),
        Contrast((1.0, 1.0)),
        LowResolution((None, 1.0)),
        Gamma((1.0, 1.0), False),
        Gamma((1.0, 1.0), True),
        ZeroOutside((0, 1)),
        BackgroundOutside(),
    ],
    ids=repr,
)
def test_zero_strength_changes_nothing(transform: Any) -> None:
    image, label = transform.apply(IMAGE, LABEL)
    torch.testing.assert_close(image, IMAGE, atol=1e-5, rtol=0)
    assert torch.equal(label, LABEL)


def test_noise_has_its_sigma_and_is_made_from_its_seed() -> None:
    image = torch.zeros(2, 30, 30, 30)
    noisy, _ = Noise(0.05, 7).apply(image, LABEL)
    assert noisy.std() == pytest.approx(0.05, rel=0.02)
    assert not torch.equal(noisy[0], noisy[1])
    assert torch.equal(noisy, Noise(0.05, 7).apply(image, LABEL)[0])
    assert not torch.equal(noisy, Noise(0.05, 8).apply(image, LABEL)[0])


@pytest.mark.parametrize("shape", [(6, 8, 10), (8, 10), (2, 3, 40)])
def test_blur_equals_scipy_with_repeated_borders(shape: tuple[int, ...]) -> None:
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    sigmas = (0.5, 0.8, 1.0)[: len(shape)]
    blurred, _ = Blur((sigmas, None)).apply(image, LABEL)
    np.testing.assert_allclose(blurred[0], ndimage.gaussian_filter(image[0], sigmas, mode="nearest"), atol=1e-5)
    assert torch.equal(blurred[1], image[1])


def test_brightness_multiplies_each_channel() -> None:
    bright, _ = Brightness((0.5, 2.0)).apply(IMAGE, LABEL)
    assert torch.equal(bright[0], IMAGE[0] * 0.5)
    assert torch.equal(bright[1], IMAGE[1] * 2)


def test_contrast_by_hand() -> None:
    image = torch.tensor([[0.0, 1.0, 2.0, 5.0], [0.0, 1.0, 2.0, 5.0]])[:, None]
    result, _ = Contrast((0.5, 2.0)).apply(image, LABEL)
    # The mean is 2; stretching by 2 gives -2, 0, 2, 8, clipped to 0..5.
    torch.testing.assert_close(result[:, 0], torch.tensor([[1.0, 1.5, 2.0, 3.5], [0.0, 0.0, 2.0, 5.0]]))


def test_low_resolution_by_hand() -> None:
    image = torch.arange(8.0).view(1, 1, 8).expand(1, 8, 8)
    result, _ = LowResolution((0.5,)).apply(image, LABEL)
    # Nearest keeps 1, 3, 5, 7; linear interpolation puts the new samples a quarter from these.
    torch.testing.assert_close(result[0, 0], torch.tensor([1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7]))


def test_low_resolution_can_leave_the_slices() -> None:
    image = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 8, 8)
    assert torch.equal(LowResolution((0.5,), keeps_first_axis=True).apply(image, LABEL)[0], image)
    assert not torch.equal(LowResolution((0.5,)).apply(image, LABEL)[0], image)


@pytest.mark.parametrize("is_inverted", [False, True])
def test_gamma_keeps_mean_and_standard_deviation(is_inverted: bool) -> None:
    result, _ = Gamma((0.7, 1.5), is_inverted).apply(IMAGE, LABEL)
    for channel in range(2):
        assert result[channel].mean() == pytest.approx(IMAGE[channel].mean().item(), abs=1e-4)
        assert result[channel].std() == pytest.approx(IMAGE[channel].std().item(), abs=1e-4)
        order = IMAGE[channel].flatten().argsort()
        assert (result[channel].flatten()[order].diff() >= -1e-5).all()
    assert not torch.allclose(result, IMAGE, atol=0.01)


def test_gamma_by_hand() -> None:
    image = torch.tensor([[0.0, 1.0, 2.0]])
    result = Gamma((2.0,), False).apply(image, LABEL)[0][0]
    curved = torch.tensor([0, 0.25, 1.0])
    torch.testing.assert_close(result, (curved - curved.mean()) / curved.std() + 1)
    inverted = Gamma((2.0,), True).apply(image, LABEL)[0][0]
    torch.testing.assert_close(inverted, 2 - result.flip(0))


def test_gamma_of_a_constant_channel_is_finite() -> None:
    image = torch.full((1, 4, 4), 3.0)
    torch.testing.assert_close(Gamma((1.3,), False).apply(image, LABEL)[0], image)


def test_outside_is_cleared_in_masked_channels_then_becomes_background() -> None:
    label = LABEL.clone()
    label[0], label[1] = -1, 2
    image, same = ZeroOutside((1,)).apply(IMAGE, label)
    assert torch.equal(image[0], IMAGE[0])
    assert (image[1, 0] == 0).all()
    assert torch.equal(image[1, 1:], IMAGE[1, 1:])
    assert (same[0] == -1).all()
    _, filled = BackgroundOutside().apply(image, same)
    assert (filled[0] == 0).all()
    assert (filled[1] == 2).all()


@pytest.mark.parametrize(
    ("random", "probability"),
    [
        (RandomNoise(), 0.1),
        (RandomBlur(1, 3), 0.2 * 0.5),
        (RandomBlur(2, 3), 0.2 * 0.75),
        (RandomBrightness(2), 0.15),
        (RandomContrast(2), 0.15),
        (RandomLowResolution(1), 0.25 * 0.5),
        (RandomGamma(2, is_inverted=True, probability=0.1), 0.1),
        (RandomGamma(2, is_inverted=False, probability=0.3), 0.3),
    ],
    ids=repr,
)
def test_share_of_samples(random: Any, probability: float) -> None:
    rng = np.random.default_rng(0)
    assert sum(random.draw(rng) is not None for _ in range(5000)) / 5000 == pytest.approx(probability, abs=0.02)


def test_noise_strengths() -> None:
    rng = np.random.default_rng(0)
    sigmas = [RandomNoise(probability=1.0).draw(rng).sigma for _ in range(500)]  # type: ignore[union-attr]
    assert 0 <= min(sigmas) < 0.005
    assert 0.095 < max(sigmas) <= 0.1


def test_factors_lie_on_either_side_of_one_with_equal_chance() -> None:
    rng = np.random.default_rng(0)
    random = RandomGamma(2, is_inverted=False, probability=1.0)
    factors = np.array([random.draw(rng).exponents for _ in range(2000)])  # type: ignore[union-attr]
    assert (factors < 1).mean() == pytest.approx(0.5, abs=0.03)
    assert 0.7 <= factors.min() < 0.71
    assert 1.49 < factors.max() <= 1.5
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.1


def test_blur_draws_a_sigma_per_channel_and_axis() -> None:
    drawn = RandomBlur(2, 3, probability=1.0, channel_probability=1.0).draw(np.random.default_rng(0))
    assert drawn is not None
    sigmas = np.array(drawn.sigmas)
    assert sigmas.shape == (2, 3)
    assert len(np.unique(sigmas)) == 6
    assert sigmas.min() >= 0.5
    assert sigmas.max() <= 1.0
