from __future__ import annotations

import pytest

from pipelines.planning.patch import (
    Candidate,
    initial_patch_size,
    is_dummy_2d,
    legal_patch,
    rotation_degrees,
    shrunk,
    starting_patch,
)
from pipelines.planning.topology import topology


# measured with nnunetv2 2.8.1 (reference/nnunet_rules.md, section 4.7)
@pytest.mark.parametrize(
    ("patch", "initial"),
    [
        ((40, 56, 40), (73, 80, 64)),
        ((128, 128, 128), (205, 205, 205)),
        ((56, 40), (65, 65)),
        ((20, 320, 256), (20, 376, 376)),
    ],
)
def test_initial_patch_is_that_of_nnunet(patch: tuple[int, ...], initial: tuple[int, ...]) -> None:
    assert initial_patch_size(patch) == initial


def test_smaller_rotation_needs_a_smaller_crop() -> None:
    assert initial_patch_size((56, 40), 15.0) == (75, 47)


@pytest.mark.parametrize(
    ("patch", "degrees", "is_flat"),
    [
        ((40, 56, 40), 30, False),
        ((20, 60, 60), 30, False),
        ((20, 61, 60), 180, True),
        ((56, 40), 180, False),
        ((60, 40), 180, False),
        ((61, 40), 15, False),
    ],
)
def test_rotation_follows_the_shape(patch: tuple[int, ...], degrees: float, is_flat: bool) -> None:
    assert rotation_degrees(patch) == degrees
    assert is_dummy_2d(patch) is is_flat


def test_start_has_equal_sides_in_mm() -> None:
    assert starting_patch((1, 1, 1), (999, 999, 999)) == (256, 256, 256)
    assert starting_patch((4, 1, 1), (999, 999, 999)) == (102, 406, 406)
    assert starting_patch((1, 1), (9999, 500.5)) == (2048, 500.5)


def test_legal_patch_is_padded_up() -> None:
    assert legal_patch((36, 50.5, 3), (8, 8, 8), (16, 16, 16)) == (40, 56, 16)


def by_topology(patch: object) -> Candidate:
    chosen = topology((1, 1, 1), patch)  # type: ignore[arg-type]
    return Candidate(None, chosen.patch_size, chosen.divisor, (4, 4, 4))


def test_step_is_that_of_the_reduced_patch() -> None:
    result = shrunk(by_topology((256, 128, 128)), (256, 256, 256), by_topology)
    assert result is not None
    assert result.patch_size == (224, 128, 128)


def test_last_of_equal_axes_shrinks_first() -> None:
    result = shrunk(by_topology((64, 64, 64)), (64, 64, 64), by_topology)
    assert result is not None
    assert result.patch_size == (64, 64, 56)


def test_axis_at_its_smallest_side_hands_over() -> None:
    def fixed(patch: object) -> Candidate:
        return Candidate(None, legal_patch(patch, (8, 8), (16, 16)), (8, 8), (16, 16))  # type: ignore[arg-type]

    result = shrunk(fixed((24, 16)), (48, 16), fixed)
    assert result is not None
    assert result.patch_size == (16, 16)
    assert shrunk(result, (48, 16), fixed) is None
