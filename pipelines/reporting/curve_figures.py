"""Learning curves: few entries in one frame, many in a frame each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from pipelines.reporting.figures import ENTRY_COLOURS, REFERENCE_COLOUR, WIDTH_INCH, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[np.ndarray, np.ndarray]

MOST_POINTS = 150
_NUM_COLUMNS = 3
# Beside its colour each entry has its own dashes, so that a print without colour can be read.
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


@figure_style()
def learning_curves(curves: Mapping[str, Sequence[Curve]], colours: Mapping[str, str], title: str) -> Figure:
    """A thin line a training, a thick line for the mean over the trainings of an entry.

    More entries than there are colours get a frame each, before a band that spans the means of all.

    Args:
        curves: for every entry a list of (epochs (N,), values (N,)); the mean spans the epochs all of them reached.
        colours: colour by entry.
        title: what is drawn.
    """
    drawn = {entry: [thinned(curve) for curve in trainings] for entry, trainings in curves.items()}
    means = {entry: _mean(trainings) for entry, trainings in drawn.items()}
    if len(curves) <= len(ENTRY_COLOURS):
        return _together(drawn, means, colours, title)
    return _apart(drawn, means, colours, title)


def thinned(curve: Curve) -> Curve:
    """At most `MOST_POINTS` points of a curve: means over stretches of equal length."""
    epochs, values = curve
    size = -(-len(epochs) // MOST_POINTS)
    if size < 2:
        return curve
    starts = np.arange(0, len(epochs), size)
    counts = np.diff(np.append(starts, len(epochs)))
    return np.add.reduceat(epochs, starts) / counts, np.add.reduceat(values, starts) / counts


def _mean(trainings: Sequence[Curve]) -> Curve:
    shortest = min((epochs for epochs, _ in trainings), key=len)
    return shortest, np.mean([values[: len(shortest)] for _, values in trainings], axis=0)


def _together(
    curves: Mapping[str, Sequence[Curve]], means: Mapping[str, Curve], colours: Mapping[str, str], title: str
) -> Figure:
    from matplotlib.figure import Figure

    num_lines = -(-len(curves) // 2)
    height_inch = 2.9 + (0.2 * num_lines if len(curves) > 1 else 0)
    figure = Figure(figsize=(WIDTH_INCH, height_inch))
    bottom = (height_inch - 2.9 + 0.45) / height_inch
    axes = figure.add_axes((0.1, bottom, 0.88, 1 - bottom - 0.3 / height_inch))
    for (entry, trainings), dashes in zip(curves.items(), cycle(_DASHES), strict=False):
        if len(trainings) > 1:
            for epochs, values in trainings:
                axes.plot(epochs, values, color=colours[entry], linewidth=0.7, alpha=0.4)
        marker = "o" if len(means[entry][0]) == 1 else None
        axes.plot(*means[entry], color=colours[entry], linewidth=1.8, linestyle=dashes, marker=marker, label=entry)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", y=1)
    axes.set_xlabel("epoch")
    _grid(axes)
    if len(curves) > 1:
        figure.legend(loc="lower left", ncols=2, fontsize=8, handlelength=2.6, bbox_to_anchor=(0.06, 0))
    return figure


def _apart(
    curves: Mapping[str, Sequence[Curve]], means: Mapping[str, Curve], colours: Mapping[str, str], title: str
) -> Figure:
    from matplotlib.figure import Figure

    num_rows = -(-len(curves) // _NUM_COLUMNS)
    pitch_inch, head_inch, foot_inch = 1.0, 0.35, 0.35
    height_inch = head_inch + num_rows * pitch_inch + foot_inch
    figure = Figure(figsize=(WIDTH_INCH, height_inch))
    figure.text(0.08, 1 - 0.12 / height_inch, title, fontsize=10, fontweight="bold", va="top")
    longest = max((epochs for epochs, _ in means.values()), key=len)
    reached = [np.append(values, np.full(len(longest) - len(values), np.nan)) for _, values in means.values()]
    low, high = np.nanmin(reached, axis=0), np.nanmax(reached, axis=0)
    first: Axes | None = None
    for index, (entry, trainings) in enumerate(curves.items()):
        row, column = divmod(index, _NUM_COLUMNS)
        left = 0.08 + column * 0.31
        bottom = (height_inch - head_inch - (row + 1) * pitch_inch + 0.12) / height_inch
        axes = figure.add_axes((left, bottom, 0.28, (pitch_inch - 0.4) / height_inch), sharex=first, sharey=first)
        first = first or axes
        axes.fill_between(longest, low, high, color=REFERENCE_COLOUR, alpha=0.22, linewidth=0)
        if len(trainings) > 1:
            for epochs, values in trainings:
                axes.plot(epochs, values, color=colours[entry], linewidth=0.5, alpha=0.45)
        axes.plot(*means[entry], color=colours[entry], linewidth=1.5)
        axes.set_title(entry, loc="left", fontsize=7.5, pad=2, y=1)
        is_lowest = index + _NUM_COLUMNS >= len(curves)
        axes.tick_params(labelsize=7, labelleft=column == 0, labelbottom=is_lowest, length=2)
        _grid(axes)
    return figure


def _grid(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    axes.grid(axis="y", color=REFERENCE_COLOUR, alpha=0.3, linewidth=0.5)
