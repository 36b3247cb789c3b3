from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipelines.preprocessing.resample import (
    axis_matrix,
    nearest_indices,
    resample_channel,
    resample_image,
    resample_label,
    separate_axis,
)

RAMP = np.arange(64, dtype=np.float32).reshape(4, 4, 4)


def test_cubic_vector() -> None:
    first_row = resample_channel(RAMP, (6, 6, 6), None, 3)[0, 0]
    np.testing.assert_allclose(first_row, [0, 0, 0, 0.5814, 1.3307, 1.8193], atol=5e-5)


def test_separate_axis_vector() -> None:
    result = resample_channel(RAMP, (8, 6, 6), 0, 3)
    np.testing.assert_array_equal(result[:, 0, 0], [0, 0, 16, 16, 32, 32, 48, 48])
    np.testing.assert_allclose(result[0, 0], [0, 0.1779, 0.9272, 1.5757, 2.3250, 2.8136], atol=5e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_separate_axis_may_be_any(axis: int) -> None:
    shape = np.roll([8, 6, 6], axis)
    expected = np.moveaxis(resample_channel(RAMP, (8, 6, 6), 0, 3), 0, axis)
    np.testing.assert_array_equal(resample_channel(np.moveaxis(RAMP, 0, axis), shape, axis, 3), expected)


@pytest.mark.parametrize(
    ("spacing", "new_spacing", "expected"),
    [
        ((5, 1, 1), (1, 1, 1), 0),
        ((3, 1, 1), (1, 1, 1), None),
        ((3.01, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (5, 1, 1), 0),
        ((1, 4, 4), (1, 1, 1), None),
        ((0.24, 1.25, 1.25), (1, 1, 1), None),
        ((1, 1, 5), (5, 1, 1), 2),
        ((1, 4, 4), (5, 1, 1), None),
    ],
)
def test_separate_axis(spacing: tuple[float, ...], new_spacing: tuple[float, ...], expected: int | None) -> None:
    assert separate_axis(spacing, new_spacing) == expected


@pytest.mark.parametrize(("size", "new_size"), [(4, 8), (7, 3), (5, 5), (10, 13), (6, 4), (1, 4), (31, 96)])
def test_nearest_indices_equal_order_zero_interpolation(size: int, new_size: int) -> None:
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    expected = ndimage.map_coordinates(np.arange(size), [centres], order=0, mode="nearest")
    np.testing.assert_array_equal(nearest_indices(size, new_size), expected)


def test_label_upsampled_by_two_repeats_voxels_away_from_ties() -> None:
    label = np.zeros((2, 2, 4), np.int16)
    label[..., 2:] = 1
    np.testing.assert_array_equal(resample_label(label, (2, 2, 8), None)[0, 0], [0, 0, 0, 0, 1, 1, 1, 1])


def test_a_tie_goes_to_the_nearest_neighbour() -> None:
    # Four to two: each new centre lies halfway between two voxels of different labels.
    label = np.array([3, 1, 1, 2], np.int8).reshape(1, 1, 4)
    expected = label[..., nearest_indices(4, 2)]
    np.testing.assert_array_equal(expected.ravel(), [1, 2])
    np.testing.assert_array_equal(resample_label(label, (1, 1, 2), None), expected)


def test_labels_that_touch_leave_no_gap_of_background() -> None:
    label = np.ones((1, 9, 9), np.int16)
    label[:, :, 3:6] = 2
    label[:, :, 6:] = 3
    result = resample_label(label, (1, 13, 13), None)
    assert set(np.unique(result)) == {1, 2, 3}
    assert (np.diff(result[0], axis=1) >= 0).all()


def test_the_largest_indicator_wins_even_below_one_half() -> None:
    # The middle of this plane lies at equal distance of four voxels: label 2 has two of them, the others one each.
    label = np.array([[1, 2], [2, 3]], np.int16)[None]
    assert resample_label(label, (1, 1, 1), None).item() == 2


def test_label_with_separate_axis_repeats_whole_slices() -> None:
    label = np.stack([np.zeros((3, 3)), np.full((3, 3), 2)]).astype(np.int8)
    result = resample_label(label, (4, 5, 5), 0)
    assert result.dtype == np.int8
    np.testing.assert_array_equal(result[:, 0, 0], [0, 0, 2, 2])


def test_unchanged_shape_is_not_resampled() -> None:
    image = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(resample_image(image, (3, 4, 5), None), image)
    label = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    assert resample_label(label, (3, 4, 5), 0) is label


def test_channels_are_apart_and_stay_in_range_and_float32() -> None:
    image = np.stack([RAMP, 1000 - RAMP])
    result = resample_image(image, (7, 3, 5), None)
    assert result.dtype == np.float32
    assert result[0].min() >= 0
    assert result[0].max() <= 63
    np.testing.assert_array_equal(result[0], resample_channel(RAMP, (7, 3, 5), None, 3))
    np.testing.assert_allclose(result[1], 1000 - result[0], atol=1e-3)


@pytest.mark.parametrize(("size", "new_size", "order"), [(9, 21, 3), (21, 9, 3), (9, 21, 1), (200, 150, 3), (1, 5, 3)])
def test_what_is_constant_stays_constant(size: int, new_size: int, order: int) -> None:
    np.testing.assert_allclose(axis_matrix(size, new_size, order).sum(axis=1), 1, atol=1e-6)


def test_a_long_axis_is_resampled_in_blocks_as_by_the_whole_matrix() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 300)).astype(np.float32)
    expected = values @ axis_matrix(300, 401, 3).T
    for axis in range(3):
        turned = np.moveaxis(values, 2, axis)
        shape = tuple(401 if position == axis else size for position, size in enumerate(turned.shape))
        result = np.moveaxis(resample_channel(turned, shape, None, 3), axis, 2)
        np.testing.assert_allclose(result, expected.clip(values.min(), values.max()), atol=1e-6)


def test_a_label_that_the_new_grid_passes_by_is_gone() -> None:
    label = np.zeros((1, 1, 9), np.int16)
    label[..., 3] = 5
    np.testing.assert_array_equal(resample_label(label, (1, 1, 1), None), [[[0]]])


def test_labels_of_a_large_volume_take_memory_for_their_own_boxes() -> None:
    import tracemalloc

    label = np.zeros((60, 120, 120), np.int16)
    for value in range(1, 60):
        label[value, value : value + 20, value : value + 20] = value
    tracemalloc.start()
    resample_label(label, (60, 90, 90), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One float32 map a class would be 116 MB, and one alone 2; the label itself is 1.
    assert peak < 4e6
