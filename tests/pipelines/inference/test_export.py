from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skimage.transform import resize

from pipelines.inference.export import to_scan_grid


def _properties(**changes: Any) -> dict[str, Any]:
    same = {
        "shape": [4, 5, 6],
        "spacing_mm": [1.0, 1.0, 1.0],
        "transpose_forward": [0, 1, 2],
        "box": [[0, 4], [0, 5], [0, 6]],
        "shape_after_crop": [4, 5, 6],
        "spacing_after_mm": [1.0, 1.0, 1.0],
    }
    return same | changes


def _logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
def test_on_the_same_grid_the_best_class_wins(convert) -> None:
    logits = _logits(3, 4, 5, 6)
    label = to_scan_grid(convert(logits), _properties())
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, logits.argmax(0))


def test_a_tie_goes_to_the_lower_class() -> None:
    assert not to_scan_grid(np.zeros((3, 4, 5, 6), np.float32), _properties()).any()


def test_outside_the_box_is_background() -> None:
    logits = np.zeros((2, 2, 3, 4), np.float32)
    logits[1] = 1
    properties = _properties(box=[[1, 3], [0, 3], [2, 6]], shape_after_crop=[2, 3, 4])
    expected = np.zeros((4, 5, 6))
    expected[1:3, 0:3, 2:6] = 1
    np.testing.assert_array_equal(to_scan_grid(logits, properties), expected)


@pytest.mark.parametrize("forward", [(2, 0, 1), (1, 2, 0), (1, 0, 2)])
def test_the_axes_return_to_the_order_of_the_scan(forward: tuple[int, ...]) -> None:
    wanted = np.random.default_rng(1).integers(0, 3, (4, 5, 6))
    logits = np.stack([wanted == value for value in range(3)]).astype(np.float32)
    transposed = logits.transpose(0, *(axis + 1 for axis in forward))
    shape = list(transposed.shape[1:])
    properties = _properties(transpose_forward=list(forward), box=[[0, side] for side in shape], shape_after_crop=shape)
    np.testing.assert_array_equal(to_scan_grid(transposed, properties), wanted)


def test_resampling_is_linear_in_the_logits() -> None:
    logits = _logits(3, 4, 5, 6)
    properties = _properties(
        shape=[8, 7, 9],
        box=[[0, 8], [0, 7], [0, 9]],
        shape_after_crop=[8, 7, 9],
        spacing_after_mm=[2.0, 1.4, 1.5],
    )
    resized = [resize(values.astype(np.float64), (8, 7, 9), order=1, mode="edge") for values in logits]
    resampled = np.stack(resized)
    best_two = np.sort(resampled, axis=0)[-2:]
    is_clear = best_two[1] - best_two[0] > 1e-4
    assert is_clear.mean() > 0.95
    label = to_scan_grid(logits, properties)
    np.testing.assert_array_equal(label[is_clear], resampled.argmax(0)[is_clear])


def test_along_a_coarse_axis_slices_are_repeated() -> None:
    logits = _logits(3, 4, 5, 6)
    properties = _properties(
        shape=[8, 5, 6],
        box=[[0, 8], [0, 5], [0, 6]],
        shape_after_crop=[8, 5, 6],
        spacing_after_mm=[5.0, 1.0, 1.0],
        spacing_mm=[2.5, 1.0, 1.0],
    )
    np.testing.assert_array_equal(to_scan_grid(logits, properties), np.repeat(logits.argmax(0), 2, axis=0))


def test_many_classes_need_two_bytes() -> None:
    logits = np.zeros((300, 1, 1, 1), np.float32)
    logits[299] = 1
    properties = _properties(shape=[1, 1, 1], box=[[0, 1]] * 3, shape_after_crop=[1, 1, 1])
    label = to_scan_grid(logits, properties)
    assert label.dtype == np.uint16
    assert label.item() == 299


def test_prepared_labels_return_to_the_scan() -> None:
    from pipelines.planning.plan import Preprocessing
    from pipelines.preprocessing.prepare import prepare_case

    image = np.zeros((1, 12, 16, 14), np.float32)
    image[:, 2:10, 3:15, 1:13] = np.random.default_rng(0).uniform(1, 2, (8, 12, 12))
    label = np.zeros(image.shape[1:], np.int16)
    label[4:8, 5:13, 3:11] = 1
    preprocessing = Preprocessing(
        configuration="3d_fullres",
        transpose_forward=(1, 0, 2),
        spacing_mm=(0.5, 1.0, 0.5),
        normalisation=("zscore",),
        uses_nonzero_mask=(False,),
        intensity=({},),
    )
    prepared = prepare_case(image, label, (1.0, 1.0, 1.0), preprocessing)
    assert prepared.label is not None
    logits = np.stack([prepared.label <= 0, prepared.label == 1]).astype(np.float32)
    np.testing.assert_array_equal(to_scan_grid(logits, prepared.properties), label)
