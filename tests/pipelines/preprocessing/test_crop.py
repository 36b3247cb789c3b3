from __future__ import annotations

import numpy as np

from pipelines.preprocessing.crop import crop_to_nonzero


def test_background_outside_the_mask_becomes_minus_one_and_holes_belong_to_the_mask() -> None:
    image = np.zeros((1, 5, 6, 7), np.float32)
    image[0, 1:4, 1:4, 2:5] = 1
    image[0, 2, 2, 3] = 0
    image[0, 1, 1, 2] = 0
    label = np.zeros((5, 6, 7), np.uint8)
    label[3, 3, 4] = 2
    cropped = crop_to_nonzero(image, label)
    assert cropped.box == ((1, 4), (1, 4), (2, 5))
    assert cropped.image.shape == (1, 3, 3, 3)
    assert cropped.label is not None
    assert cropped.label[0, 0, 0] == -1
    assert cropped.label[1, 1, 1] == 0
    assert cropped.label[2, 2, 2] == 2
    assert (cropped.label == -1).sum() == 1
    assert label.min() == 0


def test_a_labelled_voxel_outside_the_mask_keeps_its_label() -> None:
    image = np.zeros((2, 3, 3, 3), np.float32)
    image[0, 0, 0, 0] = 1
    image[1, 2, 2, 2] = 1
    label = np.zeros((3, 3, 3), np.int16)
    label[1, 1, 1] = 1
    cropped = crop_to_nonzero(image, label)
    assert cropped.box == ((0, 3), (0, 3), (0, 3))
    assert cropped.label is not None
    assert cropped.label[1, 1, 1] == 1
    assert (cropped.label == -1).sum() == 24


def test_a_case_without_label_has_a_mask() -> None:
    image = np.zeros((1, 3, 3, 3), np.float32)
    image[0, 1, 1, 1] = -4
    cropped = crop_to_nonzero(image, None)
    assert cropped.label is None
    assert cropped.mask.shape == (1, 1, 1)
    assert cropped.mask.all()
