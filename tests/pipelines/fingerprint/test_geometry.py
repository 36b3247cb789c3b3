from __future__ import annotations

import numpy as np
import pytest

from pipelines.fingerprint.geometry import blocks, bounding_box, box_shape, nonzero_box


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


@pytest.mark.parametrize("seed", range(20))
def test_box_is_where_the_first_and_last_nonzero_voxels_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.zeros((2, *rng.integers(3, 9, 3)), np.float32)
    for _ in range(rng.integers(1, 4)):
        image[tuple(rng.integers(0, image.shape))] = rng.choice([-2, 0.5, np.nan])
    places = np.argwhere((image != 0).any(axis=0))
    box = bounding_box(image)
    assert [side.start for side in box] == places.min(axis=0).tolist()
    assert [side.stop for side in box] == (places.max(axis=0) + 1).tolist()


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_box_of_an_image_whose_axes_lie_otherwise_in_memory(axis: int, is_reversed: bool) -> None:
    image = np.zeros((1, 4, 5, 6), np.float32)
    image[0, 1, 2, 3] = 1
    turned = image.swapaxes(1, axis)[:, :: -1 if is_reversed else 1]
    assert (turned[(slice(None), *bounding_box(turned))] == 1).all()


def test_blocks_cover_a_volume_once_whatever_its_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.fingerprint.geometry.BLOCK_VOXELS", 100)
    for shape, sizes in (((7, 5, 6), [3, 3, 1]), ((3, 20, 20), [1, 1, 1]), ((4, 1, 1), [4])):
        found = list(blocks(shape))
        planes = np.arange(shape[0])
        assert [len(planes[block]) for block in found] == sizes
        assert np.concatenate([planes[block] for block in found]).tolist() == planes.tolist()
