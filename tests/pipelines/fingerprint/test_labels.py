from __future__ import annotations

import numpy as np

from pipelines.fingerprint.labels import count_voxels, foreground_mask

LABEL = np.array([[[0, 1, 1, 3], [-1, 0, 4, 4]]], np.int16)


def test_ignore_label_is_no_foreground() -> None:
    assert foreground_mask(LABEL, None).sum() == 5
    assert foreground_mask(LABEL, 4).sum() == 3


def test_absent_class_counts_zero() -> None:
    assert count_voxels(LABEL, {"background": 0, "a": 1, "b": 2, "c": 3}) == {"background": 2, "a": 2, "b": 0, "c": 1}
