from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pipelines.preprocessing.boxes import num_voxels, value_boxes


def test_every_value_has_its_box_in_ascending_order() -> None:
    label = np.zeros((4, 5, 6), np.int8)
    label[1:3, 2, 3:5] = 7
    label[3, 4, 5] = label[3, 0, 0] = -1
    boxes = value_boxes(label)
    assert list(boxes) == [-1, 0, 7]
    assert boxes[7] == (slice(1, 3), slice(2, 3), slice(3, 5))
    assert boxes[-1] == (slice(3, 4), slice(0, 5), slice(0, 6))
    assert num_voxels(boxes[7]) == 4
    assert num_voxels(boxes[0]) == label.size


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_boxes_are_those_of_scipy(dtype: type) -> None:
    label = np.random.default_rng(0).integers(0, 120, (3, 5, 7)).astype(dtype)
    boxes = value_boxes(label)
    assert [boxes.get(value) for value in range(1, 120)] == ndimage.find_objects(label, 119)


def test_the_whole_range_of_a_type() -> None:
    label = np.array([-32768, 32767], np.int16).reshape(1, 1, 2)
    assert value_boxes(label)[32767] == (slice(0, 1), slice(0, 1), slice(1, 2))


def test_an_empty_map_has_no_boxes() -> None:
    assert value_boxes(np.zeros((0, 3, 3), np.int16)) == {}
