from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.metrics.partition import pixel_error, rand_error, thinned


def mask(*rows: str) -> np.ndarray:
    """An x is inside a region."""
    return np.array([[letter == "x" for letter in row] for row in rows])


def test_the_pixel_error_is_the_share_of_wrong_voxels() -> None:
    assert pixel_error(mask("xx..", "x..."), mask("x...", "x..x")) == pytest.approx(2 / 8)


def test_two_regions_merged_by_hand() -> None:
    # Regions of 2 and 2 voxels: 4 ordered pairs; found as one of 4 (of the 5 only the reference's count): 12 pairs.
    assert rand_error(mask("xxxxx"), mask("xx.xx")) == pytest.approx(1 - 2 * 4 / (4 + 12))


def test_a_region_that_is_split_by_hand() -> None:
    # A region of 5 has 20 pairs. Its middle joins the left part: 3 and 2 voxels have 6 + 2.
    assert rand_error(mask("xx.xx"), mask("xxxxx")) == pytest.approx(1 - 2 * 8 / (20 + 8))


def test_only_voxels_that_the_reference_gives_to_a_region_count() -> None:
    assert rand_error(mask("xx.xxxx"), mask("xx.xx..")) == 0


def test_the_width_of_predicted_borders_does_not_count() -> None:
    reference = mask("xxxxxxx.xxxxxxx")
    assert rand_error(mask("xxxxx.....xxxxx"), reference) == 0
    assert pixel_error(mask("xxxxx.....xxxxx"), reference) > 0.2


def test_one_missing_voxel_of_a_border_merges_two_regions_and_is_hardly_a_pixel_error() -> None:
    reference = np.ones((21, 21), bool)
    reference[:, 10] = False
    leaking = reference.copy()
    leaking[10, 10] = True
    assert pixel_error(leaking, reference) == pytest.approx(1 / 441)
    num = 210
    both, merged = 2 * num * (num - 1), 2 * num * (2 * num - 1)
    assert rand_error(leaking, reference) == pytest.approx(1 - 2 * both / (both + merged))


def test_thinning_gives_every_voxel_to_the_nearest_region() -> None:
    assert thinned(np.array([[1, 0, 0, 0, 2]], np.int32))[0, [0, 1, 3, 4]].tolist() == [1, 1, 2, 2]
    assert not thinned(np.zeros((2, 2), np.int32)).any()


def test_empty_maps() -> None:
    nothing, something = mask("...."), mask("xx.x")
    assert math.isnan(rand_error(something, nothing))
    # All is one region: 6 pairs of which the reference has 2.
    assert rand_error(nothing, something) == pytest.approx(1 - 2 * 2 / (2 + 6))
    assert rand_error(mask("x.x"), mask("x.x")) == 0, "regions of one voxel have no pairs"
