from __future__ import annotations

import numpy as np
import pytest

from pipelines.preprocessing.locations import ANNOTATED, StoredLocations, class_locations, decoded, encoded


def blocks() -> np.ndarray:
    label = np.zeros((6, 6, 6), np.int16)
    label[1:3, 1:3, 1:3] = 1
    label[3:5, 3:5, 3:5] = 2
    return label


def test_vector_of_two_blocks() -> None:
    locations = class_locations(blocks())
    assert set(locations) == {1, 2}
    assert locations[1].shape == locations[2].shape == (8, 3)
    assert locations[1].dtype == np.int32
    np.testing.assert_array_equal(locations[1][:2], [[1, 2, 1], [1, 1, 2]])
    np.testing.assert_array_equal(locations[2][:2], [[4, 3, 4], [3, 3, 3]])


@pytest.mark.parametrize(("num_voxels", "expected"), [(1, 1), (9_999, 9_999), (10_001, 10_000), (1_000_150, 10_002)])
def test_number_of_voxels(num_voxels: int, expected: int) -> None:
    label = np.zeros(1_000_200, np.int8)
    label[:num_voxels] = 1
    voxels = class_locations(label.reshape(1, 1, -1))[1]
    assert len(voxels) == expected
    assert len(np.unique(voxels[:, 2])) == expected
    assert voxels[:, 2].max() < num_voxels


def test_the_ignore_label_is_no_class_and_every_other_voxel_is_annotated() -> None:
    label = blocks()
    label[0, 0, 0] = -1
    label[5] = 3
    locations = class_locations(label, ignore_label=3)
    assert set(locations) == {1, 2, ANNOTATED}
    annotated = locations[ANNOTATED]
    assert len(annotated) == 5 * 36
    assert annotated[:, 0].max() == 4
    np.testing.assert_array_equal(locations[1][:2], [[1, 2, 1], [1, 1, 2]])


def test_background_alone_has_no_locations() -> None:
    assert class_locations(np.full((2, 2, 2), -1, np.int8)) == {}


@pytest.mark.parametrize("share", [0.001, 0.1, 1.0])
def test_stored_voxels_come_back_in_ascending_order(share: float) -> None:
    shape = (30, 40, 50)
    voxels = np.argwhere(np.random.default_rng(0).random(shape) < share).astype(np.int32)
    shuffled = np.random.default_rng(1).permutation(voxels)
    np.testing.assert_array_equal(decoded(encoded(shuffled, shape), shape), voxels)


def test_stored_voxels_may_lie_beyond_two_to_the_thirty_one() -> None:
    shape = (2000, 1000, 2000)
    voxels = np.array([[0, 0, 0], [1999, 999, 1999]], np.int32)
    np.testing.assert_array_equal(decoded(encoded(voxels, shape), shape), voxels)


def test_a_whole_class_takes_less_than_a_byte_a_voxel() -> None:
    label = np.zeros((36, 50, 35), np.int8)
    label[8:26, 10:20, 12:22] = 1
    voxels = class_locations(label)[1]
    assert len(encoded(voxels, label.shape)) < len(voxels) / 4


def test_stored_locations_are_a_mapping_that_decodes_what_is_asked_for() -> None:
    voxels = np.array([[0, 1, 2], [3, 3, 3]], np.int32)
    locations = StoredLocations({1: encoded(voxels, (4, 4, 4)), 2: b"never looked at"}, (4, 4, 4))
    assert set(locations) == {1, 2}
    assert len(locations) == 2
    np.testing.assert_array_equal(locations[1], voxels)
    assert locations[1] is locations[1]
    assert locations.get(ANNOTATED) is None
