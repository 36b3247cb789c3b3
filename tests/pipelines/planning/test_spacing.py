from __future__ import annotations

import numpy as np
import pytest

from pipelines.planning.spacing import resampled_shape, target_spacing, transpose_order


def test_halves_go_to_even() -> None:
    assert resampled_shape((5, 10, 7), (1, 1, 1), (2, 4, 2)) == (2, 2, 4)


def test_axis_without_target_keeps_its_voxels() -> None:
    assert resampled_shape((9, 10, 10), (10, 1, 1), (None, 2, 2)) == (9, 5, 5)


def test_target_is_the_median() -> None:
    assert target_spacing([(1, 2, 3), (2, 2, 2), (3, 2, 1)], [(9, 9, 9)] * 3) == (2, 2, 2)


@pytest.mark.parametrize(
    ("thick", "shape", "target"),
    [
        ([5, 5, 5, 5, 2], (20, 100, 100), 3.2),  # 10th percentile of 2, 5, 5, 5, 5
        ([5, 5, 5, 5, 0.1], (20, 100, 100), 2.06),
        ([5, 5, 5, 0.1, 0.1], (20, 100, 100), 1.00001),  # never finer than the other axes
        ([5, 5, 5, 5, 2], (40, 100, 100), 5),  # not few voxels
        ([3, 3, 3, 3, 2], (20, 100, 100), 3),  # three times is not more than three times
    ],
)
def test_thick_axis_takes_a_low_percentile(thick: list[float], shape: tuple[int, int, int], target: float) -> None:
    result = target_spacing([(value, 1, 1) for value in thick], [shape] * len(thick))
    assert result == pytest.approx((target, 1, 1), abs=1e-12)


@pytest.mark.parametrize(("spacing", "order"), [((1, 1, 1), (0, 1, 2)), ((1, 5, 1), (1, 0, 2)), ((1, 1, 5), (2, 0, 1))])
def test_largest_spacing_comes_first(spacing: tuple[float, ...], order: tuple[int, ...]) -> None:
    assert transpose_order(spacing) == order


def test_an_axis_may_be_put_first() -> None:
    assert transpose_order((1, 1, 5), 1) == (1, 0, 2)


def test_target_is_the_percentile_that_nnunet_takes() -> None:
    spacings = [(0.1, 0.7, 1.1), (0.3, 0.2, 1.3)]
    assert target_spacing(spacings, [(9, 9, 9)] * 2) == tuple(np.percentile(spacings, 50, axis=0).tolist())
