from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipelines.augmentation.spatial import (
    Affine,
    CentreCrop,
    Elastic,
    Mirror,
    RandomAffine,
    RandomElastic,
    RandomMirror,
    rotation_matrix,
)


def patch(shape: tuple[int, ...], num_channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(-1, 4, shape, generator=generator)
    return torch.randn(num_channels, *shape, generator=generator), label


def affine(size: tuple[int, ...], matrix: np.ndarray) -> Affine:
    return Affine(size, tuple(map(tuple, matrix.tolist())))


@pytest.mark.parametrize(
    ("shape", "size", "num_dims"),
    [((9, 8, 7), (5, 4, 4), 3), ((9, 8), (5, 5), 2), ((4, 9, 8), (4, 5, 5), 2), ((3, 4, 5), (3, 4, 5), 3)],
)
def test_the_identity_equals_the_centre_crop_bit_for_bit(
    shape: tuple[int, ...], size: tuple[int, ...], num_dims: int
) -> None:
    image, label = patch(shape)
    expected = CentreCrop(size).apply(image, label)
    result = affine(size, np.eye(num_dims)).apply(image, label)
    assert torch.equal(result[0], expected[0])
    assert torch.equal(result[1], expected[1])


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (2, 0)), (2, (0, 1))])
def test_a_quarter_turn_about_an_axis_equals_rot90(axis: int, plane: tuple[int, int]) -> None:
    image, label = patch((7, 7, 7))
    angles = [0.0, 0.0, 0.0]
    angles[axis] = math.pi / 2
    turned, turned_label = affine((7, 7, 7), rotation_matrix(angles)).apply(image, label)
    expected = image.rot90(-1, [plane[0] + 1, plane[1] + 1])
    inside = (slice(1, -1),) * 3
    torch.testing.assert_close(turned[(slice(None), *inside)], expected[(slice(None), *inside)], atol=1e-4, rtol=0)
    assert torch.equal(turned_label[inside], label.rot90(-1, plane)[inside])


@pytest.mark.parametrize(("shape", "spatial_axes"), [((8, 8), (0, 1)), ((3, 8, 8), (1, 2))])
def test_a_quarter_turn_in_the_plane(shape: tuple[int, ...], spatial_axes: tuple[int, int]) -> None:
    image, label = patch(shape)
    turned, turned_label = affine(shape, rotation_matrix([math.pi / 2])).apply(image, label)
    expected = image.rot90(-1, [axis + 1 for axis in spatial_axes])
    torch.testing.assert_close(turned[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-4, rtol=0)
    assert torch.equal(turned_label[..., 1:-1, 1:-1], label.rot90(-1, spatial_axes)[..., 1:-1, 1:-1])


def test_rotation_is_about_axis_0_then_1_then_2() -> None:
    a, b, c = 0.3, -0.5, 0.7
    about = [rotation_matrix(angles) for angles in ([a, 0, 0], [0, b, 0], [0, 0, c])]
    np.testing.assert_allclose(rotation_matrix([a, b, c]), about[2] @ about[1] @ about[0])
    np.testing.assert_allclose(about[1][1], [0, 1, 0])
    assert np.linalg.det(rotation_matrix([a, b, c])) == pytest.approx(1)


def test_a_rotation_keeps_lengths_in_a_patch_of_unequal_sides() -> None:
    # A ball stays a ball.
    z, y, x = np.meshgrid(np.arange(40) - 19.5, np.arange(20) - 9.5, np.arange(20) - 9.5, indexing="ij")
    label = torch.from_numpy((z**2 + y**2 + x**2 < 36).astype(np.int64))
    turned = affine((40, 20, 20), rotation_matrix([0.0, 0.5, 0.0])).apply(torch.zeros(1, 40, 20, 20), label)[1]
    assert (turned == 1).sum() == pytest.approx(int(label.sum()), rel=0.02)
    assert ((turned == 1) & (label == 1)).sum() > 0.95 * label.sum()


def test_linear_interpolation_against_grid_sample() -> None:
    image, label = patch((9, 10, 11))
    matrix = rotation_matrix([0.2, -0.3, 0.4]) * 1.1
    size = (5, 6, 7)
    theta = torch.zeros(1, 3, 4)
    for row in range(3):
        for column in range(3):
            theta[0, 2 - row, 2 - column] = matrix[row, column] * size[column] / image.shape[row + 1]
    grid = torch.nn.functional.affine_grid(theta, [1, 1, *size], align_corners=False)
    sampled = torch.nn.functional.grid_sample(image[None], grid, padding_mode="zeros", align_corners=False)[0]
    indicators = torch.stack([(label == value).float() for value in range(4)])
    shares = torch.nn.functional.grid_sample(indicators[None], grid, padding_mode="zeros", align_corners=False)[0]
    shares = torch.cat([1 - shares.sum(0, keepdim=True), shares])
    result, turned = affine(size, matrix).apply(image, label)
    torch.testing.assert_close(result, sampled, atol=1e-4, rtol=0)
    assert torch.equal(turned, shares.argmax(0) - 1)


def test_outside_the_initial_patch_is_zero_and_minus_one() -> None:
    image, label = torch.ones(1, 6, 6), torch.zeros(6, 6, dtype=torch.int64)
    result, turned = affine((6, 6), np.eye(2) * 3).apply(image, label)
    assert (result[0, 0] == 0).all()
    assert (turned[0] == -1).all()
    assert (result[0, 2:4, 2:4] == 1).all()
    assert (turned[2:4, 2:4] == 0).all()


def test_a_scale_above_one_makes_things_smaller() -> None:
    label = torch.zeros(21, 21, dtype=torch.int64)
    label[5:16, 5:16] = 1
    smaller = affine((21, 21), np.eye(2) * 2).apply(torch.zeros(1, 21, 21), label)[1]
    assert (smaller[8:13, 8:13] == 1).all()
    assert (smaller == 1).sum() == 25


def test_in_plane_leaves_the_slices_where_they_are() -> None:
    image = torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 9, 9)
    label = image[0].long()
    result, turned = affine((4, 5, 5), rotation_matrix([0.7])).apply(image, label)
    torch.testing.assert_close(result, image[:, :, 2:7, 2:7])
    assert torch.equal(turned, label[:, 2:7, 2:7])


def test_the_label_of_the_most_surrounding_weight_wins() -> None:
    # Halfway between four voxels; two of them hold 7.
    label = torch.tensor([[3, 7], [7, 250]])
    everywhere_the_centre = Affine((2, 2), ((0.0, 0.0), (0.0, 0.0)))
    assert (everywhere_the_centre.apply(torch.zeros(1, 2, 2), label)[1] == 7).all()


def test_where_several_labels_meet_the_largest_share_wins_and_the_first_of_equal_ones() -> None:
    # A patch of two voxels a side whose voxels all look at the centre, where four voxels weigh a quarter each.
    label = torch.tensor([[5, 3], [3, 9]])
    nowhere = ((0.0, 0.0), (0.0, 0.0))
    assert Affine((2, 2), nowhere).apply(torch.zeros(1, 2, 2), label)[1].unique().tolist() == [3]
    four = torch.tensor([[4, 1], [2, 3]])
    assert Affine((2, 2), nowhere).apply(torch.zeros(1, 2, 2), four)[1].unique().tolist() == [4]


@pytest.mark.parametrize(
    ("shape", "size", "num_dims"),
    [
        ((26, 25, 31), (12, 10, 15), 3),
        ((40, 41), (13, 16), 2),
        ((4, 30, 33), (4, 12, 13), 2),
        ((9, 9, 9), (9, 9, 9), 3),
    ],
)
def test_the_box_that_a_map_looks_at_is_enough_for_it(
    shape: tuple[int, ...], size: tuple[int, ...], num_dims: int
) -> None:
    image, label = patch(shape)
    rng = np.random.default_rng(0)
    smaller = 0
    for _ in range(30):
        matrix = rotation_matrix(rng.uniform(-0.6, 0.6, 3 if num_dims == 3 else 1)) * rng.uniform(0.7, 1.4)
        for transform in (affine(size, matrix), CentreCrop(size)):
            first, length = transform.box(shape)
            box = tuple(slice(low, low + side) for low, side in zip(first, length, strict=True))
            assert all(low >= 0 and low + side <= full for low, side, full in zip(first, length, shape, strict=True))
            whole, part = transform.apply(image, label), transform.apply(image[(slice(None), *box)], label[box])
            torch.testing.assert_close(part[0], whole[0], atol=2e-4, rtol=0)
            # Positions are rounded otherwise, which may tip a tie.
            assert (part[1] != whole[1]).float().mean() < 0.002
            smaller += math.prod(length) < math.prod(shape)
    assert smaller > 30 or shape == size


def test_shares_of_rotation_and_scaling() -> None:
    random = RandomAffine((4, 4, 4), 30.0)
    rng = np.random.default_rng(0)
    drawn = [random.draw(rng) for _ in range(4000)]
    matrices = [np.array(each.matrix) for each in drawn if isinstance(each, Affine)]
    scales = np.array([np.cbrt(np.linalg.det(matrix)) for matrix in matrices])
    is_scaled = ~np.isclose(scales, 1)
    is_rotated = np.array([not np.allclose(m / s, np.eye(3)) for m, s in zip(matrices, scales, strict=True)])
    assert is_scaled.sum() / 4000 == pytest.approx(0.2, abs=0.02)
    assert is_rotated.sum() / 4000 == pytest.approx(0.2, abs=0.02)
    assert (is_scaled & is_rotated).sum() / 4000 == pytest.approx(0.04, abs=0.01)
    assert 0.7 <= scales.min() < 0.75
    assert 1.35 < scales.max() <= 1.4


@pytest.mark.parametrize(("size", "is_in_plane", "num_dims"), [((4, 4), False, 2), ((4, 9, 9), True, 2)])
def test_in_the_plane_one_angle_is_drawn(size: tuple[int, ...], is_in_plane: bool, num_dims: int) -> None:
    drawn = RandomAffine(size, 180.0, rotation_probability=1.0, is_in_plane=is_in_plane).draw(np.random.default_rng(3))
    assert isinstance(drawn, Affine)
    assert np.shape(drawn.matrix) == (num_dims, num_dims)


def test_mirror_moves_the_label_with_the_image() -> None:
    _, label = patch((3, 4, 5))
    image, flipped = Mirror((0, 2)).apply(label[None].float(), label)
    assert torch.equal(image[0].long(), flipped)
    assert flipped[0, 0, 0] == label[2, 0, 4]


def test_mirror_axes_are_drawn_apart_and_only_from_those_allowed() -> None:
    rng = np.random.default_rng(0)
    drawn = [RandomMirror((0, 2)).draw(rng) for _ in range(2000)]
    assert {each.axes if each else () for each in drawn} == {(), (0,), (2,), (0, 2)}
    assert sum(each is None for each in drawn) / 2000 == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(("shape", "num_dims"), [((9, 8), 2), ((5, 6, 7), 3), ((3, 6, 7), 2)])
def test_no_displacement_changes_nothing(shape: tuple[int, ...], num_dims: int) -> None:
    image, label = patch(shape)
    result = Elastic(3, (0.0,) * num_dims * 3**num_dims, num_dims).apply(image, label)
    assert torch.equal(result[0], image)
    assert torch.equal(result[1], label)


@pytest.mark.parametrize(("shape", "num_dims"), [((9, 8), 2), ((5, 6, 7), 3), ((3, 6, 7), 2)])
def test_equal_displacements_of_all_nodes_move_the_patch(shape: tuple[int, ...], num_dims: int) -> None:
    image, label = patch(shape)
    nodes = 3**num_dims
    # Two voxels along the first axis that moves, none along the others.
    moved, moved_label = Elastic(3, (2.0,) * nodes + (0.0,) * (nodes * (num_dims - 1)), num_dims).apply(image, label)
    axis = len(shape) - num_dims
    length = shape[axis] - 2
    torch.testing.assert_close(moved.narrow(axis + 1, 0, length), image.narrow(axis + 1, 2, length))
    assert torch.equal(moved_label.narrow(axis, 0, length), label.narrow(axis, 2, length))
    assert (moved_label.narrow(axis, length, 2) == -1).all()
    # Displacements between the nodes are rounded.
    assert (moved.narrow(axis + 1, length, 2).abs() < 1e-4).all()


def test_displacements_are_those_of_the_nodes_and_bicubic_between() -> None:
    shifts = np.random.default_rng(0).normal(0, 3, 18)
    field = Elastic(3, tuple(shifts.tolist()), 2).displacement((9, 17))
    assert field.shape == (2, 9, 17)
    nodes = torch.tensor(shifts, dtype=torch.float32).view(2, 3, 3)
    torch.testing.assert_close(field[:, ::4, ::8], nodes)
    bicubic = torch.nn.functional.interpolate(nodes[None], size=(9, 17), mode="bicubic", align_corners=True)[0]
    torch.testing.assert_close(field, bicubic)


@pytest.mark.parametrize(
    ("size", "is_in_plane", "num_dims", "std"),
    [
        ((200, 300), False, 2, 10.0),
        ((40, 50), False, 2, 4.0),
        ((8, 40, 50), True, 2, 4.0),
        ((20, 30, 40), False, 3, 2.0),
    ],
)
def test_displacements_have_u_net_s_deviation_or_a_tenth_of_the_shortest_side(
    size: tuple[int, ...], is_in_plane: bool, num_dims: int, std: float
) -> None:
    rng = np.random.default_rng(0)
    drawn = [RandomElastic(size, 1.0, is_in_plane=is_in_plane).draw(rng) for _ in range(300)]
    assert all(each is not None and len(each.shifts) == num_dims * 3**num_dims for each in drawn)
    assert np.std([each.shifts for each in drawn if each]) == pytest.approx(std, rel=0.05)
    some = [RandomElastic(size, 0.3).draw(rng) for _ in range(1000)]
    assert sum(each is not None for each in some) / 1000 == pytest.approx(0.3, abs=0.05)
