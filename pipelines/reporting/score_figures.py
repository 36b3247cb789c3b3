"""Scores of entries as rows of points, with the mean and its interval on each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        group: frame in which the row stands, "" where there is one frame alone.
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
    """Every value a point, every entry a row, every group a frame; on each row the mean and its interval.

    Points of equal value are spread over the height of their row, in the same way whenever the figure is drawn.

    Args:
        rows: entries in the same order in every group.
        colours: colour by entry.
        title: what is drawn.
    """
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(row.group for row in rows))
    frames = [[row for row in rows if row.group == group] for group in groups]
    gap_inch = _GROUP_INCH if any(groups) else 0.0
    pitch_inch = _PITCHES_INCH[len(frames[0]) > _MANY_ROWS]
    heights_inch = [pitch_inch * len(frame) for frame in frames]
    height_inch = _HEAD_INCH + sum(heights_inch) + gap_inch * len(frames) + _FOOT_INCH
    figure = Figure(figsize=(WIDTH_INCH, height_inch))
    left = (0.18 + _LETTER_INCH * max(len(_short(row.entry)) for row in rows)) / WIDTH_INCH
    figure.text(0, 1 - 0.04 / height_inch, title, fontsize=10, fontweight="bold", va="top")
    is_picture = sum(len(row.values) for row in rows) > _NUM_DRAWN_AS_PICTURE
    top_inch = height_inch - _HEAD_INCH
    first: Axes | None = None
    for group, frame, frame_inch in zip(groups, frames, heights_inch, strict=True):
        top_inch -= gap_inch + frame_inch
        bounds = (left, top_inch / height_inch, 0.98 - left, frame_inch / height_inch)
        axes = figure.add_axes(bounds, sharex=first)
        first = first or axes
        if group:
            axes.set_title(group, loc="left", fontsize=9, pad=3)
        _draw_frame(axes, frame, colours, is_picture)
        axes.tick_params(axis="x", labelbottom=group == groups[-1], length=3 if group == groups[-1] else 0)
    return figure


def _draw_frame(axes: Axes, rows: Sequence[Strip], colours: Mapping[str, str], is_picture: bool) -> None:
    drawn = [(height, row) for height, row in enumerate(rows) if row.values]
    # The golden ratio spreads neighbours far apart: equal values do not hide each other.
    offsets = {height: 0.6 * ((np.arange(len(row.values)) * _GOLDEN_RATIO) % 1 - 0.5) for height, row in drawn}
    if drawn:
        axes.scatter(
            np.concatenate([np.sort(row.values) for _, row in drawn]),
            np.concatenate([height + offsets[height] for height, _ in drawn]),
            s=7,
            c=[colours[row.entry] for _, row in drawn for _ in row.values],
            linewidths=0,
            alpha=0.5 if len(drawn[0][1].values) < 100 else 0.3,
            rasterized=is_picture,
        )
        heights = [height for height, _ in drawn]
        axes.hlines(heights, [row.low for _, row in drawn], [row.high for _, row in drawn], color=INK, linewidth=1.6)
        axes.plot([row.mean for _, row in drawn], heights, "D", color=INK, markersize=3.6, markeredgewidth=0)
    size = 8 if len(rows) <= _MANY_ROWS else 7.5
    axes.set_yticks(range(len(rows)), [_short(row.entry) for row in rows], fontsize=size)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.03)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines["left"].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=REFERENCE_COLOUR, alpha=0.3, linewidth=0.5)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
