from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from pipelines.planning.configurations import (
    Geometry,
    configurations,
    default_configuration,
    geometry,
    low_resolution,
)
from tests.nnunet_data import DATA, Data


def space(spacing_mm: Sequence[float], shape: Sequence[float]) -> Geometry:
    z, y, x = shape
    return Geometry((0, 1, 2), (spacing_mm[0], spacing_mm[1], spacing_mm[2]), (z, y, x), z * y * x)


def cube(spacing_mm: Sequence[float], shape: Sequence[float]) -> tuple[int, ...]:
    return tuple(min(32, int(side)) for side in shape)


def test_slices_have_a_2d_configuration_alone() -> None:
    assert configurations(geometry(DATA["Microscopy2D"].fingerprint())) == ["2d"]
    assert configurations(geometry(DATA["Hippo"].fingerprint())) == ["2d", "3d_fullres", "3d_lowres"]


VOLUMES, SLICES = ["2d", "3d_fullres", "3d_lowres"], ["2d"]


@pytest.mark.parametrize(
    ("available", "served", "chosen"),
    [
        (VOLUMES, (2, 3), "3d_fullres"),
        (VOLUMES, (3,), "3d_fullres"),
        (VOLUMES, (2,), "2d"),
        (SLICES, (2, 3), "2d"),
        (SLICES, (2,), "2d"),
    ],
)
def test_the_default_is_what_data_and_architecture_have_in_common(
    available: Sequence[str], served: Sequence[int], chosen: str
) -> None:
    assert default_configuration(available, served, "segmentation/a", "d") == chosen


def test_slices_for_an_architecture_of_three_dimensions_are_told() -> None:
    with pytest.raises(
        ValueError, match=r"data set d has 2d, because its cases are single slices, but .*a serves 3D only"
    ):
        default_configuration(SLICES, (3,), "segmentation/a", "d")


def test_slices_come_first_unless_nnunet_decides() -> None:
    fingerprint = Data((1, 1, 1), (40, 50, 1), 3, 1, 2).fingerprint()
    assert geometry(fingerprint).transpose_forward == (2, 0, 1)
    assert geometry(fingerprint).median_shape == (1, 40, 50)
    assert geometry(fingerprint, puts_slices_first=False).transpose_forward == (0, 1, 2)


def test_a_line_of_voxels_has_no_plane_to_put_first() -> None:
    fingerprint = Data((1, 2, 1), (1, 50, 1), 3, 1, 2).fingerprint()
    assert geometry(fingerprint).transpose_forward == (1, 0, 2)


def test_median_of_an_even_number_of_cases_may_be_half_a_voxel() -> None:
    fingerprint = dataclasses.replace(
        DATA["Hippo"].fingerprint(),
        spacings_mm=((1.0, 1.0, 1.0),) * 2,
        shapes_after_crop=((10, 20, 30), (11, 20, 30)),
    )
    assert geometry(fingerprint).median_shape == (10.5, 20, 30)
    assert geometry(fingerprint).num_voxels == 10.5 * 20 * 30


def test_a_patch_of_a_quarter_is_enough() -> None:
    assert low_resolution(space((1, 1, 1), (64, 64, 32)), (32, 32, 32), cube) == (
        None,
        "a patch of full resolution covers 0.25 of the median case, and 0.25 is enough",
    )


def test_spacing_is_coarsened_until_a_patch_shows_a_quarter() -> None:
    low, why = low_resolution(space((1, 1, 1), (64, 64, 64)), (32, 32, 32), cube)
    # 1.03^8: of 64 voxels 50.5 are left, whose cube is 4 times that of 32 but for rounding.
    assert low is not None
    assert low.spacing_mm == pytest.approx((1.03**8,) * 3)
    assert low.median_shape == (51, 51, 51)
    assert low.num_voxels == pytest.approx((64 / 1.03**8) ** 3)
    assert "covers 0.125 of the median case, less than 0.25" in why


def test_finer_axes_are_coarsened_first() -> None:
    low, _ = low_resolution(space((4, 1, 1), (32, 128, 128)), (32, 32, 32), cube)
    assert low is not None
    assert low.spacing_mm[0] == 4
    assert low.spacing_mm[1] == low.spacing_mm[2] > 1


def test_less_than_half_a_case_left_out_is_not_worth_it() -> None:
    low, why = low_resolution(space((1, 1, 1), (52, 52, 52)), (32, 32, 32), cube)
    assert low is None
    assert "less than 1/2 is asked for" in why


def test_an_axis_that_would_lose_its_last_voxel_ends_the_search() -> None:
    asked = []

    def plane(spacing_mm: Sequence[float], shape: Sequence[float]) -> tuple[int, ...]:
        asked.append(shape)
        return tuple(min(256, int(side)) for side in shape)

    low, why = low_resolution(space((1, 1, 1), (2048, 2048, 1)), (256, 256, 1), plane)
    assert low is None
    assert "none of the 1 voxels along axis 2 is left; nnU-Net's planner does not end on such data" in why
    assert all(min(shape) >= 1 for shape in asked)
