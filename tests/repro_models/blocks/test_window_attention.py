from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from repro_models.blocks.window_attention import (
    WindowAttention,
    join_windows,
    relative_index,
    same_region,
    split_into_windows,
)

CPU = torch.device("cpu")


def test_windows_are_read_row_by_row() -> None:
    x = torch.arange(16).reshape(1, 4, 4, 1)
    windows = split_into_windows(x, (2, 2))
    assert windows[0, :, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


@pytest.mark.parametrize(("size", "window"), [((4, 6), (2, 3)), ((2, 6, 4), (2, 3, 1))])
def test_joined_windows_are_the_map_again(size: tuple[int, ...], window: tuple[int, ...]) -> None:
    x = torch.randn(2, *size, 5)
    assert torch.equal(join_windows(split_into_windows(x, window), window, size), x)


def test_relative_index_is_that_of_the_swin_transformer() -> None:
    # microsoft/Swin-Transformer issue 281 prints it
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert relative_index((2, 2), (2, 2), CPU).tolist() == expected


@pytest.mark.parametrize("window", [(2, 3, 4), (4, 3, 2), (1, 1, 1)])
def test_a_cut_window_uses_the_rows_of_its_offsets(window: tuple[int, ...]) -> None:
    full = (4, 3, 4)
    index = relative_index(window, full, CPU)
    positions = list(itertools.product(*map(range, window)))
    offsets = itertools.product(*(range(1 - width, width) for width in full))
    rows = {offset: row for row, offset in enumerate(offsets)}
    for i, query in enumerate(positions):
        for j, key in enumerate(positions):
            assert index[i, j] == rows[tuple(a - b for a, b in zip(query, key, strict=True))]


@pytest.mark.parametrize(("window", "is_same"), [((2, 3), True), ((4, 3), True), ((4, 2), False)])
def test_numbers_of_the_full_window_are_offsets_where_the_first_axis_alone_is_cut(
    window: tuple[int, int], is_same: bool
) -> None:
    num_positions = window[0] * window[1]
    by_number = relative_index((4, 3), (4, 3), CPU)[:num_positions, :num_positions]
    assert torch.equal(relative_index(window, (4, 3), CPU), by_number) is is_same


def test_positions_from_both_ends_of_a_shifted_map_are_told_apart() -> None:
    # Shifted by one, the last window of 0 1 2 3 4 5 holds 4 5 0.
    allowed = same_region((6,), (3,), (1,), CPU)
    assert allowed.shape == (2, 1, 3, 3)
    assert allowed[0].all()
    assert allowed[1, 0].int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def one_by_one(attention: WindowAttention, x: Tensor, window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """Equation 4 for every position alone: it sees those of its own window, which nothing is moved around for."""
    _, *size, channels = x.shape
    ends = [-side % width for side, width in zip(size, window, strict=True)]
    x = functional.pad(x, (0, 0, *(end for border in reversed(ends) for end in (0, border))))
    query, key, value = attention.query_key_value(x).chunk(3, dim=-1)
    positions = list(itertools.product(*map(range, x.shape[1:-1])))
    width = channels // attention.num_heads

    def place(position: tuple[int, ...]) -> tuple[int, ...]:
        return tuple((p - s) // w for p, s, w in zip(position, shift, window, strict=True))

    result = torch.zeros_like(x)
    for here in positions:
        seen = [there for there in positions if place(there) == place(here)]
        offsets = [[a - b for a, b in zip(here, there, strict=True)] for there in seen]
        rows = []
        for offset in offsets:
            row = 0
            for step, full in zip(offset, attention.window, strict=True):
                row = row * (2 * full - 1) + step + full - 1
            rows.append(row)
        for head in range(attention.num_heads):
            part = slice(head * width, (head + 1) * width)
            keys = torch.stack([key[(0, *there)][part] for there in seen])
            values = torch.stack([value[(0, *there)][part] for there in seen])
            scores = keys @ query[(0, *here)][part] / width**0.5 + attention.bias_table[rows, head]
            result[(0, *here)][part] = scores.softmax(0) @ values
    return attention.projection(result)[(slice(None), *(slice(side) for side in size))]


@pytest.mark.parametrize(
    ("size", "is_shifted", "window", "shift"),
    [
        pytest.param((6, 3), False, (3, 3), (0, 0), id="whole windows"),
        pytest.param((6, 9), True, (3, 3), (1, 1), id="shifted"),
        pytest.param((5, 4), True, (3, 3), (1, 1), id="shifted and padded"),
        pytest.param((7, 2), True, (3, 2), (1, 0), id="one axis as small as its window"),
        pytest.param((2, 3), True, (2, 3), (0, 0), id="both axes as small"),
        pytest.param((4, 2, 3), True, (3, 2, 3), (1, 0, 0), id="3d"),
    ],
)
def test_every_position_sees_its_own_window(
    size: tuple[int, ...], is_shifted: bool, window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    attention = WindowAttention(4, 2, (3,) * len(size), is_shifted).double()
    torch.nn.init.normal_(attention.bias_table)
    x = torch.randn(1, *size, 4, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attention(x), one_by_one(attention, x, window, shift))


@pytest.mark.parametrize(("size", "is_same"), [((6, 6), True), ((2, 6), True), ((6, 2), False)])
def test_the_authors_index_is_another_one_in_windows_cut_behind_the_first_axis(
    size: tuple[int, int], is_same: bool
) -> None:
    torch.manual_seed(0)
    ours, theirs = WindowAttention(4, 2, (3, 3), False), WindowAttention(4, 2, (3, 3), False, True)
    torch.nn.init.normal_(ours.bias_table)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, *size, 4)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6) is is_same
