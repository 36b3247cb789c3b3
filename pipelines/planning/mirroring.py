"""Axes along which a patch may be mirrored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipelines.cases.sides import sided_pair

_X_AXIS = 2


def mirror_axes(
    choice: str | Sequence[int], names: Iterable[str], transpose_forward: Sequence[int], spatial_dims: int
) -> tuple[tuple[int, ...], str]:
    """Axes of the patch that may be mirrored, and why.

    Args:
        choice: `auto` (all but left-right, where two labels differ in their side only), `all`, `none`, or axes.
        names: of the labels.
        transpose_forward: of the preprocessing; axis 2 of an image runs from left to right.
        spatial_dims: axes of the patch.

    Raises:
        ValueError: no such choice or axis.
    """
    every = tuple(range(spatial_dims))
    if not isinstance(choice, str):
        if not set(choice) <= set(every):
            raise ValueError(f"mirror_axes {list(choice)}: a {spatial_dims}D patch has the axes {list(every)}")
        return tuple(sorted(set(choice))), f"mirror axes: {_listed(choice)}, as set"
    if choice == "none":
        return (), "mirror axes: none, as set"
    if choice == "all":
        return every, f"mirror axes: {_listed(every)} (all), as set"
    if choice != "auto":
        raise ValueError(f"mirror_axes {choice!r}: must be auto, all, none or a list of axes from {list(every)}")
    pair = sided_pair(names)
    if pair is None:
        return every, f"mirror axes: {_listed(every)} (all), because no two labels differ only in their side"
    left_right = list(transpose_forward).index(_X_AXIS) - (3 - spatial_dims)
    axes = tuple(axis for axis in every if axis != left_right)
    return axes, (
        f"mirror axes: {_listed(axes)} without left-right, because the labels {pair[0]!r} and {pair[1]!r} "
        "differ only in their side"
    )


def _listed(axes: Sequence[int]) -> str:
    return ", ".join(map(str, axes)) or "none"
