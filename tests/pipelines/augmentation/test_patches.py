from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.augmentation.patches import PatchSampler, patch_corner
from pipelines.preprocessing.locations import class_locations
from pipelines.preprocessing.shards import PreparedCase, open_case, write_case

SHAPE = (12, 14, 10)


def prepared_case(folder: Path, name: str, label: np.ndarray, ignore_label: int | None = None) -> PreparedCase:
    """A case whose voxel values are their flat index, so a patch shows where it was cut."""
    path = folder / f"{name}.arrow"
    values = np.arange(label.size, dtype=np.float32).reshape(label.shape)
    write_case(path, np.stack([values, -values]), label, class_locations(label, ignore_label), {})
    return open_case(path)


@pytest.fixture
def cases(tmp_path: Path) -> list[PreparedCase]:
    first, second = np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.int16)
    first[0, 0, 0] = 1
    second[11, 13, 9] = 1
    second[5:7, 5:7, 5:7] = 2
    return [prepared_case(tmp_path, "first", first), prepared_case(tmp_path, "second", second)]


def test_a_sample_depends_on_seed_step_and_index_alone(cases: list[PreparedCase]) -> None:
    def sampler(seed: int = 5) -> PatchSampler:
        return PatchSampler(cases, (6, 6, 6), (8, 9, 8), 4, 0.33, seed)

    wanted = [(step, index) for step in range(3) for index in range(4)]
    forward = {place: sampler().sample(*place) for place in wanted}
    one = sampler()
    for place in reversed(wanted):
        image, label, rng = one.sample(*place)
        assert torch.equal(image, forward[place][0])
        assert torch.equal(label, forward[place][1])
        assert rng.random() == forward[place][2].random()
    others = [sampler(6).sample(*place)[0] for place in wanted]
    assert not all(torch.equal(image, forward[place][0]) for image, place in zip(others, wanted, strict=True))
    assert len({tuple(forward[place][0].flatten()[:9].tolist()) for place in wanted}) > 6


def test_a_patch_is_the_crop_in_float32_and_int16(cases: list[PreparedCase]) -> None:
    image, label, _ = PatchSampler(cases, (4, 4, 4), (4, 4, 4), 2, 0.0, 0).sample(0, 0)
    assert (image.dtype, label.dtype) == (torch.float32, torch.int16)
    assert image.shape == (2, 4, 4, 4)
    first = int(image[0, 0, 0, 0])
    z, y, x = np.unravel_index(first, SHAPE)
    whole = torch.arange(np.prod(SHAPE), dtype=torch.float32).reshape(SHAPE)
    assert torch.equal(image[0], whole[z : z + 4, y : y + 4, x : x + 4])
    assert torch.equal(image[1], -image[0])


@pytest.mark.parametrize("size", [(9, 16, 8), (8, 9)], ids=["3d", "2d"])
def test_a_box_of_a_patch_is_that_part_of_the_whole_patch(cases: list[PreparedCase], size: tuple[int, ...]) -> None:
    sampler = PatchSampler(cases, size, [side + 3 for side in size], 2, 0.33, 0)
    for step in range(20):
        first, length = (2,) * len(size), tuple(side - 1 for side in size)
        image, label = sampler.place(step, 1).cut((first, length))
        whole_image, whole_label, _ = sampler.sample(step, 1)
        box = tuple(slice(low, low + side) for low, side in zip(first, length, strict=True))
        assert torch.equal(image, whole_image[(slice(None), *box)])
        assert torch.equal(label, whole_label[box])


@pytest.mark.parametrize(
    ("batch_size", "num_forced"), [(1, 0), (2, 1), (3, 1), (9, 3), (12, 4), (366, 121)], ids=lambda value: str(value)
)
def test_share_of_forced_foreground(cases: list[PreparedCase], batch_size: int, num_forced: int) -> None:
    assert batch_size - PatchSampler(cases, (4, 4, 4), (4, 4, 4), batch_size, 0.33, 0).num_random == num_forced


@pytest.mark.parametrize("initial", [(4, 4, 4), (7, 8, 9)])
def test_a_forced_patch_shows_its_class_and_classes_come_in_equal_shares(
    cases: list[PreparedCase], initial: tuple[int, int, int]
) -> None:
    sampler = PatchSampler(cases[1:], (4, 4, 4), initial, 2, 0.33, 0)
    found = []
    for step in range(200):
        _, label, _ = sampler.sample(step, 1)
        final = label[tuple(slice((a - 4) // 2, (a - 4) // 2 + 4) for a in initial)]
        classes = set(final.unique().tolist()) - {0, -1}
        assert len(classes) == 1
        found.append(classes.pop())
    assert 70 < found.count(1) < 130


def test_a_forced_patch_of_a_case_without_foreground_is_random(tmp_path: Path) -> None:
    case = prepared_case(tmp_path, "empty", np.zeros(SHAPE, np.int16))
    sampler = PatchSampler([case], (4, 4, 4), (4, 4, 4), 1, 1.0, 0)
    assert len({int(sampler.sample(step, 0)[0][0, 0, 0, 0]) for step in range(20)}) > 10


def test_with_an_ignore_label_every_patch_holds_an_annotated_voxel(tmp_path: Path) -> None:
    label = np.full(SHAPE, 2, np.int16)
    label[3, 4, 5] = 0
    sampler = PatchSampler([prepared_case(tmp_path, "sparse", label, 2)], (4, 4, 4), (4, 4, 4), 2, 0.33, 0)
    assert all((sampler.sample(step, index)[1] == 0).any() for step in range(10) for index in range(2))


def test_what_the_case_lacks_is_padded_on_both_sides(cases: list[PreparedCase]) -> None:
    image, label, _ = PatchSampler(cases, (12, 14, 16), (12, 14, 16), 1, 0.0, 0).sample(0, 0)
    assert (label[:, :, :3] == -1).all()
    assert (label[:, :, -3:] == -1).all()
    assert (label[:, :, 3:-3] >= 0).all()
    assert (image[:, label == -1] == 0).all()
    np.testing.assert_array_equal(image[0, :, :, 3:-3].flatten(), np.arange(np.prod(SHAPE)))


def test_2d_takes_one_slice_and_the_forced_one_through_its_voxel(cases: list[PreparedCase]) -> None:
    sampler = PatchSampler(cases, (6, 6), (8, 8), 2, 0.33, 0)
    slices = set()
    for step in range(60):
        image, label, _ = sampler.sample(step, 0)
        assert image.shape == (2, 8, 8)
        assert label.shape == (8, 8)
        slices.add(int(image[0].max()) // (14 * 10))
        assert (sampler.sample(step, 1)[1] > 0).any()
    assert slices == set(range(12))


def test_both_cases_are_drawn(cases: list[PreparedCase]) -> None:
    sampler = PatchSampler(cases, SHAPE, SHAPE, 1, 0.0, 0)
    counts = [int(sampler.sample(step, 0)[1].max()) for step in range(100)]
    assert 30 < counts.count(1) < 70


@pytest.mark.parametrize(
    ("voxel", "expected"), [((0, 0), (-2, -3)), ((5, 10), (2, 6)), ((9, 19), (5, 14)), ((4, 4), (1, 0))]
)
def test_a_centred_corner_is_clamped_at_both_ends(voxel: tuple[int, int], expected: tuple[int, int]) -> None:
    # Shape 10, 20; final 4, 4; initial 7, 9: margins 3 and 5, so corners run from -2 to 5 and from -3 to 14.
    assert patch_corner((10, 20), (4, 4), (7, 9), voxel, np.random.default_rng(0)) == expected


def test_random_corners_reach_every_place_allowed() -> None:
    rng = np.random.default_rng(0)
    corners = np.array([patch_corner((10, 3), (4, 4), (7, 4), None, rng) for _ in range(500)])
    assert set(corners[:, 0]) == set(range(-2, 6))
    assert set(corners[:, 1]) == {-1, 0}


def test_no_case_and_no_label_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no case to sample patches from"):
        PatchSampler([], (4, 4, 4), (4, 4, 4), 1, 0.33, 0)
    path = tmp_path / "bare.arrow"
    write_case(path, np.zeros((1, 4, 4, 4), np.float32), None, {}, {})
    with pytest.raises(ValueError, match=r"no label to train on in \[.*bare\.arrow"):
        PatchSampler([open_case(path)], (4, 4, 4), (4, 4, 4), 1, 0.33, 0)
