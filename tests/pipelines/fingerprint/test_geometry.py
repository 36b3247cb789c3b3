from __future__ import annotations

import numpy as np

from pipelines.fingerprint.geometry import box_shape, nonzero_box


def test_box_is_the_union_over_channels() -> None:
    image = np.zeros((2, 6, 7, 8), np.float32)
    image[0, 1, 2, 3] = -1
    image[1, 4, 2, 5] = 2
    mask, box = nonzero_box(image)
    assert box == (slice(1, 5), slice(2, 3), slice(3, 6))
    assert box_shape(box) == (4, 1, 3)
    assert mask.sum() == 2


def test_holes_are_inside() -> None:
    image = np.zeros((1, 5, 5, 5), np.float32)
    image[0, 1:4, 1:4, 1:4] = 1
    image[0, 2, 2, 2] = 0
    mask, _ = nonzero_box(image)
    assert mask[2, 2, 2]
    assert mask.sum() == 27


def test_image_of_zeros_is_kept_whole() -> None:
    mask, box = nonzero_box(np.zeros((1, 2, 3, 4), np.float32))
    assert mask.all()
    assert box_shape(box) == (2, 3, 4)
