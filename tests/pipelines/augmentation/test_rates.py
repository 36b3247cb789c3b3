"""What 20,000 samples get, beside nnU-Net's table of augmentations (nnunetv2 2.8.1)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pipelines.augmentation.intensity import Blur, Brightness, Contrast, Gamma, LowResolution, Noise
from pipelines.augmentation.pipeline import training_augmentation
from pipelines.augmentation.spatial import Affine, Mirror

NUM_SAMPLES = 20_000
SIGMAS = 4
PATCHES = {
    "3d": ((40, 56, 40), False, 30.0),
    "dummy 2d": ((20, 80, 64), True, 180.0),
    "2d": ((56, 40), False, 180.0),
    "elongated 2d": ((64, 40), False, 15.0),
}


@pytest.fixture(scope="module", params=[("3d", 1), ("3d", 2), ("dummy 2d", 1), ("2d", 1), ("elongated 2d", 1)], ids=str)
def drawn(request: pytest.FixtureRequest) -> tuple[str, int, dict[str, list[Any]]]:
    """Name of the patch, channels, and what was drawn by kind, None where a sample did not get it."""
    name, num_channels = request.param
    size, is_dummy_2d, _ = PATCHES[name]
    augmentation = training_augmentation(len(size), size, range(len(size)), is_dummy_2d, (False,) * num_channels)
    found: dict[str, list[Any]] = defaultdict(list)
    for sample in range(NUM_SAMPLES):
        of_sample = {kind(transform): transform for transform in augmentation.draw(np.random.default_rng([7, sample]))}
        for each in ("affine", "noise", "blur", "brightness", "contrast", "low", "inverted", "gamma", "mirror"):
            found[each].append(of_sample.get(each))
    return name, num_channels, found


def kind(transform: Any) -> str:
    if isinstance(transform, Gamma):
        return "inverted" if transform.is_inverted else "gamma"
    kinds = {Affine: "affine", Noise: "noise", Blur: "blur", Brightness: "brightness", Contrast: "contrast"}
    return {**kinds, LowResolution: "low", Mirror: "mirror"}.get(type(transform), "other")


def assert_rate(found: Sequence[bool] | np.ndarray, probability: float) -> None:
    deviation = math.sqrt(probability * (1 - probability) / len(found))
    assert np.mean(found) == pytest.approx(probability, abs=SIGMAS * deviation)


def assert_uniform(values: Sequence[float] | np.ndarray, low: float, high: float) -> None:
    """Range, mean and every tenth of the range."""
    values = np.asarray(values)
    assert low <= values.min()
    assert values.max() <= high
    assert values.mean() == pytest.approx((low + high) / 2, abs=SIGMAS * (high - low) / math.sqrt(12 * len(values)))
    for tenth in np.linspace(low, high, 11)[:-1]:
        assert_rate((values >= tenth) & (values < tenth + (high - low) / 10), 0.1)


def assert_about_one(values: Sequence[float] | np.ndarray, low: float, high: float) -> None:
    """Below or above one with equal chance, uniform on either side."""
    values = np.asarray(values)
    assert_rate(values < 1, 0.5)
    assert_uniform(values[values < 1], low, 1)
    assert_uniform(values[values >= 1], 1, high)


def test_rotation_and_scaling(drawn: tuple[str, int, dict[str, list[Any]]]) -> None:
    name, _, found = drawn
    size, is_dummy_2d, degrees = PATCHES[name]
    num_dims = len(size) - is_dummy_2d
    matrices = [np.array(each.matrix) if each else np.eye(num_dims) for each in found["affine"]]
    scales = np.array([abs(np.linalg.det(matrix)) ** (1 / num_dims) for matrix in matrices])
    is_scaled = ~np.isclose(scales, 1, atol=1e-9)
    turns = [matrix / scale for matrix, scale in zip(matrices, scales, strict=True)]
    is_rotated = np.array([not np.allclose(turn, np.eye(num_dims), atol=1e-9) for turn in turns])
    assert_rate(is_rotated, 0.2)
    assert_rate(is_scaled, 0.2)
    assert_rate(is_rotated & is_scaled, 0.04)
    assert_uniform(scales[is_scaled], 0.7, 1.4)
    rotations = np.array([turn for turn, is_one in zip(turns, is_rotated, strict=True) if is_one])
    if num_dims == 2:
        angles = [np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0])]
    else:
        # The product of turns about axis 2, 1 and 0 taken apart; axis 1 stays below a right angle.
        angles = [
            np.arctan2(rotations[:, 2, 1], rotations[:, 2, 2]),
            np.arcsin(-rotations[:, 2, 0]),
            np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0]),
        ]
    for of_axis in angles:
        assert_uniform(np.rad2deg(of_axis), -degrees, degrees)


def test_noise(drawn: tuple[str, int, dict[str, list[Any]]]) -> None:
    found = drawn[2]["noise"]
    assert_rate([each is not None for each in found], 0.1)
    assert_uniform([each.sigma for each in found if each], 0, 0.1)


def test_blur(drawn: tuple[str, int, dict[str, list[Any]]]) -> None:
    name, num_channels, by_kind = drawn
    found = by_kind["blur"]
    assert_rate([each is not None for each in found], 0.2 * (1 - 0.5**num_channels))
    channels = [sigmas for each in found if each for sigmas in each.sigmas]
    assert_rate([bool(each and each.sigmas[0]) for each in found], 0.1)
    sigmas = np.array([of_channel for of_channel in channels if of_channel])
    assert sigmas.shape[1] == len(PATCHES[name][0])
    for of_axis in sigmas.T:
        assert_uniform(of_axis, 0.5, 1)


@pytest.mark.parametrize(
    ("transform", "probability", "low", "high"),
    [
        ("brightness", 0.15, 0.75, 1.25),
        ("contrast", 0.15, 0.75, 1.25),
        ("inverted", 0.1, 0.7, 1.5),
        ("gamma", 0.3, 0.7, 1.5),
    ],
)
def test_brightness_contrast_and_gamma(
    drawn: tuple[str, int, dict[str, list[Any]]], transform: str, probability: float, low: float, high: float
) -> None:
    _, num_channels, by_kind = drawn
    found = [each for each in by_kind[transform] if each]
    assert_rate([each is not None for each in by_kind[transform]], probability)
    values = np.array([each.exponents if isinstance(each, Gamma) else each.factors for each in found])
    assert values.shape[1] == num_channels
    for of_channel in values.T:
        assert_about_one(of_channel, low, high)


def test_low_resolution(drawn: tuple[str, int, dict[str, list[Any]]]) -> None:
    name, num_channels, by_kind = drawn
    found = by_kind["low"]
    assert_rate([each is not None for each in found], 0.25 * (1 - 0.5**num_channels))
    assert_rate([bool(each and each.scales[0]) for each in found], 0.125)
    assert_uniform([scale for each in found if each for scale in each.scales if scale], 0.5, 1)
    assert all(each.keeps_first_axis == PATCHES[name][1] for each in found if each)


def test_mirror(drawn: tuple[str, int, dict[str, list[Any]]]) -> None:
    name, _, by_kind = drawn
    axes = [each.axes if each else () for each in by_kind["mirror"]]
    num_dims = len(PATCHES[name][0])
    for axis in range(num_dims):
        assert_rate([axis in of_sample for of_sample in axes], 0.5)
    for first in range(num_dims):
        for second in range(first):
            assert_rate([first in of_sample and second in of_sample for of_sample in axes], 0.25)


def test_transforms_are_drawn_independently(drawn: tuple[str, int, dict[str, list[Any]]]) -> None:
    by_kind = {name: np.array([each is not None for each in found]) for name, found in drawn[2].items()}
    names = sorted(by_kind)
    for first in names:
        for second in names[: names.index(first)]:
            correlation = np.corrcoef(by_kind[first], by_kind[second])[0, 1]
            assert abs(correlation) < SIGMAS / math.sqrt(NUM_SAMPLES), (first, second)
