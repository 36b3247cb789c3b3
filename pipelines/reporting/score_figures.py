"""Scores of entries as rows of points, with the mean and its interval on each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.reporting.figures import INK, REFERENCE_COLOUR, WIDTH_INCH, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GOLDEN_RATIO = 0.618034
_PITCHES_INCH = (0.23, 0.165)  # of a row; the second where there are many
_MANY_ROWS = 10
_HEAD_INCH = 0.27
_FOOT_INCH = 0.34
_GROUP_INCH = 0.27
_LETTER_INCH = 0.067
_LONGEST_NAME = 26
_NUM_DRAWN_AS_PICTURE = 2000


@dataclass(frozen=True)
class Strip:
    """The scores of an entry: one row of points.

    Attributes:
        entry: whose.
        group: heading under which the row stands, "" where there is one group alone.
        values: (N,), one point each.
        mean: of the values; NaN where there is none.
        low: lower bound of the interval of the mean.
        high: upper bound.
    """

    entry: str
    group: str
    values: tuple[float, ...]
    mean: float
    low: float
    high: float


@figure_style()
def strips(rows: Sequence[Strip], colours: Mapping[str, str], title: str) -> Figure:
    """Every value a point, every entry a row, groups one below the other; on each row the mean and its interval.

    Points of equal value are spread over the height of their row, in the same way whenever the figure is drawn.

    Args:
        rows: group by group, entries in the same order in each.
        colours: colour by entry.
        title: what is drawn.
    """
    from matplotlib.figure import Figure

    groups = {row.group: sum(other.group == row.group for other in rows) for row in rows}
    is_dense = max(groups.values()) > _MANY_ROWS
    pitch_inch = _PITCHES_INCH[is_dense]
    gap = _GROUP_INCH / pitch_inch if any(groups) else 0.0  # in rows
    places = np.arange(len(rows)) + gap * (1 + np.array([list(groups).index(row.group) for row in rows]))
    body_inch = pitch_inch * (len(rows) + gap * len(groups))
    height_inch = _HEAD_INCH + body_inch + _FOOT_INCH
    figure = Figure(figsize=(WIDTH_INCH, height_inch))
    figure.text(0, 1 - 0.04 / height_inch, title, fontsize=10, fontweight="bold", va="top")
    left = (0.18 + _LETTER_INCH * max(len(_short(row.entry)) for row in rows)) / WIDTH_INCH
    axes = figure.add_axes((left, _FOOT_INCH / height_inch, 0.98 - left, body_inch / height_inch))
    _draw_points(axes, rows, places, colours)
    for number, group in enumerate(groups):
        place = sum(list(groups.values())[:number]) + gap * (number + 0.5) - 0.5
        axes.text(0, place, group, fontsize=9, fontweight="bold", va="center", transform=axes.get_yaxis_transform())
    # Words cost a third of what ticks cost, and 20 entries in 4 classes are many.
    axes.set_yticks([])
    for place, row in zip(places, rows, strict=True):
        size = 7.5 if is_dense else 8
        beside: dict[str, Any] = {"ha": "right", "va": "center", "transform": axes.get_yaxis_transform()}
        axes.text(-0.02, place, _short(row.entry), fontsize=size, **beside)
    axes.set_title("", y=1)  # with a place of its own none is searched for it
    axes.set_ylim(places[-1] + 0.5, -0.5)
    axes.margins(x=0.03)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines["left"].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=REFERENCE_COLOUR, alpha=0.3, linewidth=0.5)
    return figure


def _draw_points(axes: Axes, rows: Sequence[Strip], places: np.ndarray, colours: Mapping[str, str]) -> None:
    drawn = [(place, row) for place, row in zip(places, rows, strict=True) if row.values]
    if not drawn:
        return
    num_points = sum(len(row.values) for _, row in drawn)
    # The golden ratio spreads neighbours far apart: equal values do not hide each other.
    offsets = [0.6 * ((np.arange(len(row.values)) * _GOLDEN_RATIO) % 1 - 0.5) for _, row in drawn]
    axes.scatter(
        np.concatenate([np.sort(row.values) for _, row in drawn]),
        np.concatenate([place + offset for (place, _), offset in zip(drawn, offsets, strict=True)]),
        s=7,
        c=[colours[row.entry] for _, row in drawn for _ in row.values],
        linewidths=0,
        alpha=0.5 if len(drawn[0][1].values) < 100 else 0.3,
        rasterized=num_points > _NUM_DRAWN_AS_PICTURE,
    )
    at, shown = zip(*drawn, strict=True)
    axes.hlines(at, [row.low for row in shown], [row.high for row in shown], color=INK, linewidth=1.6)
    axes.plot([row.mean for row in shown], at, "D", color=INK, markersize=3.6, markeredgewidth=0)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
