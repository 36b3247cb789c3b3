"""Cropping and resampling beside scikit-image and SciPy, which nnU-Net uses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize

from pipelines.preprocessing.crop import crop_to_nonzero
from pipelines.preprocessing.resample import resample_channel, resample_label

pytestmark = pytest.mark.parity

SHAPES = [
    ((12, 20, 17), (17, 13, 25)),
    ((9, 9, 9), (18, 18, 18)),
    ((5, 9, 4), (1, 30, 4)),
    ((1, 1, 6), (1, 1, 11)),
    ((40, 30, 20), (20, 61, 19)),
    ((3, 150, 7), (3, 141, 8)),
    ((2, 2, 2), (5, 3, 2)),
]


def resized(values: np.ndarray, new_shape: tuple[int, ...], order: int) -> np.ndarray:
    return resize(values.astype(float), new_shape, order, mode="edge", clip=True, anti_aliasing=False)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("shape", "new_shape"), SHAPES)
def test_an_image_is_resized_as_by_skimage(shape: tuple[int, ...], new_shape: tuple[int, ...], order: int) -> None:
    # A rough image on a large offset: the spline overshoots, and is clipped.
    values = np.random.default_rng(0).normal(1000, 200, shape).astype(np.float32)
    difference = np.abs(resample_channel(values, new_shape, None, order) - resized(values, new_shape, order))
    # Float32 rounds by 6e-8, and its sums of about thirty terms, three times over, by some more.
    assert difference.max() < 1e-6 * np.abs(values).max()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_with_a_separate_axis_each_slice_is_resized_as_by_skimage(axis: int) -> None:
    values = np.random.default_rng(0).normal(0, 1, (8, 9, 10)).astype(np.float32)
    new_shape = (13, 7, 12)
    planes = [size for position, size in enumerate(new_shape) if position != axis]
    slices = np.stack([resized(plane, tuple(planes), 3) for plane in np.moveaxis(values, axis, 0)])
    along = (np.arange(new_shape[axis]) + 0.5) * values.shape[axis] / new_shape[axis] - 0.5
    places = np.meshgrid(along, *map(np.arange, planes), indexing="ij")
    expected = np.moveaxis(ndimage.map_coordinates(slices, places, order=0, mode="nearest"), 0, axis)
    np.testing.assert_allclose(resample_channel(values, new_shape, axis, 3), expected, atol=1e-6)


def largest_indicator(label: np.ndarray, new_shape: tuple[int, ...]) -> np.ndarray:
    """Label whose indicator is largest; of those within rounding of it the nearest neighbour, else the smallest."""
    values = np.unique(label)
    shares = np.stack([resized(label == value, new_shape, 1) for value in values])
    is_best = shares > shares.max(axis=0) - 1e-6
    nearest = resized(label, new_shape, 0)
    is_nearest_best = (is_best & (values[:, None, None, None] == nearest)).any(axis=0)
    return np.where(is_nearest_best, nearest, values[is_best.argmax(axis=0)])


@pytest.mark.parametrize("num_classes", [2, 4, 30])
@pytest.mark.parametrize(("shape", "new_shape"), SHAPES)
def test_a_label_map_is_the_largest_indicator(
    shape: tuple[int, ...], new_shape: tuple[int, ...], num_classes: int
) -> None:
    rng = np.random.default_rng(num_classes)
    noise = rng.integers(-1, num_classes, shape)
    blobs = (ndimage.gaussian_filter(rng.normal(size=shape), 1.5) * 3 * num_classes).round()
    for label in (noise, blobs.clip(-1, num_classes), np.where(rng.random(shape) < 0.02, 7, -1)):
        label = label.astype(np.int16)
        np.testing.assert_array_equal(resample_label(label, new_shape, None), largest_indicator(label, new_shape))


@pytest.mark.parametrize("density", [0.02, 0.2, 0.5, 0.7, 0.95])
def test_the_mask_is_that_of_the_whole_image_with_holes_filled(density: float) -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((2, 14, 15, 16)) < density) * np.float32(3)
    image[:, :2] = 0
    image[:, :, -3:] = 0
    cropped = crop_to_nonzero(image, np.zeros(image.shape[1:], np.int16))
    expected = ndimage.binary_fill_holes(image.any(axis=0))
    box = tuple(slice(low, high) for low, high in cropped.box)
    assert box == ndimage.find_objects(expected.astype(int))[0]
    np.testing.assert_array_equal(cropped.mask, expected[box])
    assert cropped.label is not None
    np.testing.assert_array_equal(cropped.label == -1, ~expected[box])
