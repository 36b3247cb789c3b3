from __future__ import annotations

import pytest

from pipelines.planning.mirroring import mirror_axes


@pytest.mark.parametrize(
    ("choice", "transpose", "dims", "axes"),
    [
        ("auto", (0, 1, 2), 3, (0, 1)),
        ("auto", (1, 0, 2), 3, (0, 1)),
        ("auto", (2, 0, 1), 3, (1, 2)),
        ("auto", (0, 1, 2), 2, (0,)),
        ("auto", (2, 0, 1), 2, (0, 1)),  # slices are sagittal: no axis of the patch runs left-right
        ("all", (0, 1, 2), 3, (0, 1, 2)),
        ("none", (0, 1, 2), 3, ()),
        ([2, 0], (0, 1, 2), 3, (0, 2)),
    ],
)
def test_left_right_is_left_out(
    choice: str | list[int], transpose: tuple[int, ...], dims: int, axes: tuple[int, ...]
) -> None:
    assert mirror_axes(choice, ["left", "right"], transpose, dims)[0] == axes


def test_without_sides_all_axes_mirror() -> None:
    assert mirror_axes("auto", ["anterior", "posterior"], (0, 1, 2), 3)[0] == (0, 1, 2)
