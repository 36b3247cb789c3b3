from __future__ import annotations

import pytest

from repro_models.blocks.stage_topology import (
    Stages,
    check_topology,
    divisor,
    doubling_features,
    frozen,
    per_axis,
    smallest_side,
)


def test_lists_become_tuples() -> None:
    assert frozen([1, [1, 2, 2], (2, 2, 2)]) == (1, (1, 2, 2), (2, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((6, 3), [32, 64, 128, 256, 320, 320]),
        ((6, 2), [32, 64, 128, 256, 512, 512]),
        ((3, 3, 8), [8, 16, 32]),
        ((4, 2, 8, 20), [8, 16, 20, 20]),
    ],
)
def test_channels_double_up_to_the_limit(arguments: tuple[int, ...], expected: list[int]) -> None:
    assert doubling_features(*arguments) == expected


@pytest.mark.parametrize(
    ("strides", "step", "least"),
    [((1, 2, 2), 4, 8), ((1, (1, 2, 2), 2), (2, 4, 4), (4, 8, 8)), ((1, (1, 2, 2)), (1, 2, 2), (1, 4, 4))],
)
def test_a_side_is_halved_at_every_stride_and_leaves_two_voxels(
    strides: Stages, step: int | tuple[int, ...], least: int | tuple[int, ...]
) -> None:
    assert divisor(strides) == step
    assert smallest_side(strides) == least


def test_one_number_serves_all_axes() -> None:
    assert per_axis("strides", (1, (1, 2, 2)), 3) == [(1, 1, 1), (1, 2, 2)]
    with pytest.raises(ValueError, match=r"kernel_sizes=\(\(3, 3\),\): \(3, 3\) has 2 entries, but the network is 3D"):
        per_axis("kernel_sizes", ((3, 3),), 3)


@pytest.mark.parametrize(
    ("strides", "kernel_sizes", "message"),
    [
        ([(1, 1)], [(3, 3)], "at least two stages"),
        ([(1, 1), (2, 2)], [(3, 3)], "2 strides and 1 kernel sizes"),
        ([(2, 1), (2, 2)], [(3, 3), (3, 3)], r"stride \(2, 1\) of the first stage: must be 1"),
        ([(1, 1), (2, 2)], [(3, 3), (3, 2)], r"kernel size \(3, 2\): sides must be odd"),
    ],
)
def test_stages_that_make_no_network_are_refused(
    strides: list[tuple[int, ...]], kernel_sizes: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_topology(strides, kernel_sizes)
