from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from pipelines.metrics.surface import surface_distances, surface_scores


def _blob(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2) > 0.05


def _points(*positions: tuple[int, ...], shape: tuple[int, ...] = (6, 10, 10)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for position in positions:
        mask[position] = True
    return mask


def test_two_points_are_as_far_as_their_spacing_says() -> None:
    scores = surface_scores(_points((0, 0, 0)), _points((1, 3, 4)), (5.0, 1.0, 2.0), tolerance_mm=1)
    distance = math.sqrt(5**2 + 3**2 + 8**2)
    assert scores.hd95_mm == pytest.approx(distance)
    assert scores.assd_mm == pytest.approx(distance)
    assert scores.nsd == 0


def test_both_directions_count() -> None:
    # From the prediction: 0 and 4 mm; from the reference: 0 mm.
    scores = surface_scores(_points((0, 0, 0), (0, 0, 4)), _points((0, 0, 0)), (1, 1, 1), tolerance_mm=1)
    assert scores.hd95_mm == pytest.approx(0.95 * 4)
    assert scores.assd_mm == pytest.approx(4 / 3)
    assert scores.nsd == pytest.approx(2 / 3)


def test_only_the_surface_counts() -> None:
    mask = np.zeros((5, 5, 5), dtype=bool)
    mask[1:4, 1:4, 1:4] = True
    to_reference, to_prediction = surface_distances(mask, mask, (1, 1, 1))
    assert len(to_reference) == len(to_prediction) == 26
    assert not to_reference.any()


def test_a_mask_that_fills_the_image_has_the_border_as_surface() -> None:
    mask = np.ones((3, 3, 3), dtype=bool)
    assert len(surface_distances(mask, mask, (1, 1, 1))[0]) == 26


@pytest.mark.parametrize("tolerance_mm", [0.9, 1.8])
def test_a_distance_of_exactly_the_tolerance_is_right(tolerance_mm: float) -> None:
    step = 3 if tolerance_mm == 0.9 else 6
    scores = surface_scores(_points((0, 0, 0)), _points((0, 0, step)), (1, 1, 0.3), tolerance_mm)
    assert scores.nsd == 1


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9)])
def test_the_bounding_box_changes_nothing(spacing_mm: tuple[float, ...]) -> None:
    shape = (20, 40, 40)
    prediction, reference = np.zeros((2, *shape), dtype=bool)
    prediction[6:16, 10:26, 8:24] = _blob(0, (10, 16, 16))
    reference[5:15, 12:28, 9:25] = _blob(1, (10, 16, 16))
    surfaces = [mask & ~binary_erosion(mask) for mask in (prediction, reference)]
    whole = distance_transform_edt(~surfaces[1], sampling=spacing_mm)[surfaces[0]]
    np.testing.assert_array_equal(surface_distances(prediction, reference, spacing_mm)[0], whole)


def test_scores_are_symmetric() -> None:
    prediction, reference = _blob(2, (12, 20, 20)), _blob(3, (12, 20, 20))
    there = surface_scores(prediction, reference, (3, 1, 1), 1)
    back = surface_scores(reference, prediction, (3, 1, 1), 1)
    assert there.hd95_mm == back.hd95_mm
    assert there.assd_mm == pytest.approx(back.assd_mm)
    assert there.nsd == pytest.approx(back.nsd)


def test_absent_from_both_is_left_out() -> None:
    empty = np.zeros((3, 4, 12), dtype=bool)
    scores = surface_scores(empty, empty, (1, 1, 1), 1)
    assert math.isnan(scores.hd95_mm)
    assert math.isnan(scores.assd_mm)
    assert math.isnan(scores.nsd)


@pytest.mark.parametrize("is_predicted", [True, False])
def test_absent_from_one_costs_the_diagonal(is_predicted: bool) -> None:
    empty, full = np.zeros((3, 2, 12), dtype=bool), np.ones((3, 2, 12), dtype=bool)
    masks = (full, empty) if is_predicted else (empty, full)
    scores = surface_scores(*masks, (1, 2, 1), 1)
    assert scores.hd95_mm == scores.assd_mm == pytest.approx(13)
    assert scores.nsd == 0


def test_two_dimensions() -> None:
    scores = surface_scores(_points((0, 0), shape=(8, 8)), _points((3, 4), shape=(8, 8)), (1, 1), 5)
    assert scores.hd95_mm == pytest.approx(5)
    assert scores.nsd == 1
