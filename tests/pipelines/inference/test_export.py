from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch import Tensor

from pipelines.inference.export import to_scan_grid, to_scan_grid_with_probabilities


def _properties(prepared_shape: Sequence[int] = (4, 5, 6), /, **changes: Any) -> dict[str, Any]:
    """Of a case on a prepared grid, neither cropped nor resampled but for `changes`."""
    same = {
        "shape": list(prepared_shape),
        "spacing_mm": [1.0, 1.0, 1.0],
        "transpose_forward": [0, 1, 2],
        "box": [[0, side] for side in prepared_shape],
        "shape_after_crop": list(prepared_shape),
        "shape_after_resampling": list(prepared_shape),
        "spacing_after_mm": [1.0, 1.0, 1.0],
    }
    return same | changes


def _grid(shape: Sequence[int]) -> dict[str, Any]:
    """Changes of a scan of another shape that is not cropped."""
    return {"shape": list(shape), "box": [[0, side] for side in shape], "shape_after_crop": list(shape)}


def _logits(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _label(logits: np.ndarray, properties: dict[str, Any]) -> np.ndarray:
    return to_scan_grid([torch.from_numpy(logits)], properties)


def test_on_the_same_grid_the_best_class_wins() -> None:
    logits = _logits(3, 4, 5, 6)
    label = _label(logits, _properties())
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, logits.argmax(0))


def test_a_tie_goes_to_the_lower_class() -> None:
    assert not _label(np.zeros((3, 4, 5, 6), np.float32), _properties()).any()


def test_outside_the_box_is_background() -> None:
    logits = np.zeros((2, 2, 3, 4), np.float32)
    logits[1] = 1
    properties = _properties((2, 3, 4), shape=[4, 5, 6], box=[[1, 3], [0, 3], [2, 6]])
    expected = np.zeros((4, 5, 6))
    expected[1:3, 0:3, 2:6] = 1
    np.testing.assert_array_equal(_label(logits, properties), expected)


@pytest.mark.parametrize("forward", [(2, 0, 1), (1, 2, 0), (1, 0, 2)])
def test_the_axes_return_to_the_order_of_the_scan(forward: tuple[int, ...]) -> None:
    wanted = np.random.default_rng(1).integers(0, 3, (4, 5, 6))
    logits = np.stack([wanted == value for value in range(3)]).astype(np.float32)
    transposed = np.ascontiguousarray(logits.transpose(0, *(axis + 1 for axis in forward)))
    properties = _properties(transposed.shape[1:], shape=[4, 5, 6], transpose_forward=list(forward))
    np.testing.assert_array_equal(_label(transposed, properties), wanted)


@pytest.mark.parametrize("new_shape", [(8, 7, 9), (3, 7, 4), (4, 5, 9), (40, 5, 6)])
def test_resampling_is_linear_in_the_logits(new_shape: tuple[int, ...]) -> None:
    logits = _logits(3, 4, 5, 6)
    resized = [resize(values.astype(np.float64), new_shape, order=1, mode="edge") for values in logits]
    resampled = np.stack(resized)
    best_two = np.sort(resampled, axis=0)[-2:]
    is_clear = best_two[1] - best_two[0] > 1e-4
    assert is_clear.mean() > 0.95
    label = _label(logits, _properties(**_grid(new_shape)))
    np.testing.assert_array_equal(label[is_clear], resampled.argmax(0)[is_clear])


def test_along_a_coarse_axis_slices_are_repeated() -> None:
    logits = _logits(3, 4, 5, 6)
    spacings = {"spacing_after_mm": [5.0, 1.0, 1.0], "spacing_mm": [2.5, 1.0, 1.0]}
    label = _label(logits, _properties(**_grid((8, 5, 6)), **spacings))
    np.testing.assert_array_equal(label, np.repeat(logits.argmax(0), 2, axis=0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_coarse_axis_may_be_any_and_the_others_are_linear(axis: int) -> None:
    logits = _logits(3, 4, 4, 4)
    new_shape, spacing_after_mm = [7, 7, 7], [1.0, 1.0, 1.0]
    new_shape[axis], spacing_after_mm[axis] = 8, 5.0
    plane_shape = [side for position, side in enumerate(new_shape) if position != axis]
    planes = np.moveaxis(logits.astype(np.float64), axis + 1, 1)
    resized = np.stack([[resize(plane, plane_shape, order=1, mode="edge") for plane in values] for values in planes])
    expected = np.moveaxis(np.repeat(resized.argmax(0), 2, axis=0), 0, axis)
    label = _label(logits, _properties((4, 4, 4), **_grid(new_shape), spacing_after_mm=spacing_after_mm))
    assert (label != expected).mean() < 0.01  # but for ties within rounding


@pytest.mark.parametrize("new_shape", [(9, 5, 6), (23, 7, 4), (50, 12, 12), (4, 6, 7), (1, 5, 6)])
@pytest.mark.parametrize("lengths", [(9,), (3, 3, 3), (1,) * 9, (6, 1, 2)])
def test_blocks_of_any_length_say_what_the_whole_says(new_shape: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    logits = torch.from_numpy(_logits(4, 9, 5, 6))
    properties = _properties((9, 5, 6), **_grid(new_shape))
    held = torch.empty(4, 9, 5, 6)

    def blocks() -> Iterator[Tensor]:
        for planes in logits.split(lengths, dim=1):
            block = held[:, : planes.shape[1]]
            block.copy_(planes)
            yield block
            held.fill_(torch.nan)  # the next block overwrites this one

    np.testing.assert_array_equal(to_scan_grid(blocks(), properties), to_scan_grid([logits], properties))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_blocks_may_move_from_the_gpu_to_the_cpu() -> None:
    logits = torch.from_numpy(_logits(3, 6, 5, 4))
    properties = _properties((6, 5, 4), **_grid((9, 5, 4)))
    first, second = logits.split(3, dim=1)
    np.testing.assert_array_equal(to_scan_grid([first.cuda(), second], properties), to_scan_grid([logits], properties))


def test_many_classes_need_two_bytes() -> None:
    logits = np.zeros((300, 1, 1, 1), np.float32)
    logits[299] = 1
    label = _label(logits, _properties((1, 1, 1)))
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
    np.testing.assert_array_equal(_label(logits, prepared.properties), label)


@pytest.mark.parametrize("axis_order", [[0, 1, 2], [2, 0, 1]])
def test_probabilities_are_the_softmax_on_the_grid_of_the_scan_and_the_label_map_stays(axis_order: list[int]) -> None:
    logits = _logits(3, 4, 5, 6)
    forward = np.array(axis_order)
    backward = np.argsort(forward)
    shape = np.array([7, 5, 8])[backward]  # of the scan; in transposed order it is 7, 5, 8
    properties = _properties(
        (4, 5, 6),
        shape=shape.tolist(),
        transpose_forward=axis_order,
        box=[[2, 6], [0, 5], [1, 7]],
        shape_after_crop=[4, 5, 6],
    )
    label, probabilities = to_scan_grid_with_probabilities([torch.from_numpy(logits)], properties)
    np.testing.assert_array_equal(label, to_scan_grid([torch.from_numpy(logits)], properties))
    assert (probabilities.dtype, probabilities.shape) == (np.uint16, (3, *shape))
    inside = probabilities.transpose(0, *(forward + 1))[:, 2:6, 0:5, 1:7] / 65535
    np.testing.assert_allclose(inside, torch.from_numpy(logits).softmax(0).numpy(), atol=1e-5)
    outside = np.ones(shape, bool)
    outside.transpose(forward)[2:6, 0:5, 1:7] = False
    assert (probabilities[0][outside] == 65535).all()
    assert not probabilities[1:, outside].any()


def test_probabilities_of_resampled_logits_come_in_blocks_too() -> None:
    logits = _logits(2, 6, 5, 4)
    properties = _properties((6, 5, 4), **_grid((9, 10, 8)))
    whole = to_scan_grid_with_probabilities([torch.from_numpy(logits)], properties)
    parted = to_scan_grid_with_probabilities(torch.from_numpy(logits).split(2, dim=1), properties)
    np.testing.assert_array_equal(whole[1], parted[1])
    np.testing.assert_array_equal(whole[0], _label(logits, properties))
    is_clear = np.abs(whole[1][1].astype(int) - 32768) > 1
    np.testing.assert_array_equal((whole[1][1] > 32768)[is_clear], whole[0][is_clear] == 1)
