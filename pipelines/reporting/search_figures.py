"""Pictures of a search: the settings of every trial, and which of them made a difference.

How good a trial was, next to others of its fold: those that came further before they were stopped are better, of those
that came equally far the one with the higher score; a failed one is the worst. Scores themselves do not compare trials
that were stopped at different epochs, nor those of different folds, which are validated on different cases.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.reporting.figures import ENTRY_COLOURS, REFERENCE_COLOUR, WIDTH_INCH, figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

_FEWEST_TRIALS = 4
_NO_SETTINGS = ("trial", "fold", "score", "epochs", "status", "seconds", "reason")
# A range that spans more than this factor is drawn on a logarithmic scale.
_LOG_FACTOR = 8
_DASHES = (0, (4, 2))
_BEST_COLOUR, _FINISHED_COLOUR = ENTRY_COLOURS[1], ENTRY_COLOURS[0]


def search_figures(trials: Sequence[Row]) -> dict[str, Figure]:
    """The pictures of one entry's search.

    Args:
        trials: rows of `trials.parquet`.

    Returns:
        `parallel_coordinates` and `importance`; nothing where there are fewer than four trials with a score, or
        nothing was varied.
    """
    scored = [row for row in trials if row["score"] is not None]
    settings = varied_settings(trials)
    if len(scored) < _FEWEST_TRIALS or not settings:
        return {}
    return {
        "parallel_coordinates": _parallel_coordinates(scored, settings),
        "importance": _importance(importance(trials)),
    }


def varied_settings(trials: Sequence[Row]) -> list[str]:
    """Settings that had two values or more."""
    names = [key for key in trials[0] if key not in _NO_SETTINGS] if trials else []
    return [name for name in names if len({row[name] for row in trials}) > 1]


def importance(trials: Sequence[Row]) -> dict[str, float]:
    """How much a setting decided about the success of the trials, each setting by itself.

    Of numbers Spearman's rank correlation with the trials' ranks in their fold, without its sign; of choices the
    correlation ratio: the root of the share of the variance of these ranks that lies between the values.

    Args:
        trials: rows of `trials.parquet`.

    Returns:
        Setting -> 0 (none) to 1 (all), the most important first.
    """
    from scipy.stats import rankdata

    ranks = np.array(_ranks(trials))
    found = {}
    for setting in varied_settings(trials):
        values = [row[setting] for row in trials]
        if all(_is_number(value) for value in values):
            found[setting] = abs(_correlation(rankdata(values), rankdata(ranks)))
        else:
            groups = defaultdict(list)
            for value, rank in zip(values, ranks, strict=True):
                groups[value].append(rank)
            between = sum(len(group) * (np.mean(group) - ranks.mean()) ** 2 for group in groups.values())
            total = ((ranks - ranks.mean()) ** 2).sum()
            found[setting] = math.sqrt(between / total) if total else 0.0
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _ranks(trials: Sequence[Row]) -> list[float]:
    """Place of every trial in its fold: 0 the worst, 1 the best; 0.5 where it is alone."""
    from scipy.stats import rankdata

    ranks = [0.5] * len(trials)
    for fold in {row["fold"] for row in trials}:
        numbers = [number for number, row in enumerate(trials) if row["fold"] == fold]
        keys = [_success(trials[number]) for number in numbers]
        order = {key: place for place, key in enumerate(sorted(set(keys)))}
        if len(numbers) > 1:
            for number, rank in zip(numbers, rankdata([order[key] for key in keys]), strict=True):
                ranks[number] = (rank - 1) / (len(numbers) - 1)
    return ranks


def _success(row: Row) -> tuple[bool, bool, int, float]:
    score = -math.inf if row["score"] is None else row["score"]
    # Minutes let trials that were not stopped end at different epochs.
    is_finished = row["status"] == "finished"
    return (row["score"] is not None, is_finished, 0 if is_finished else row["epochs"], score)


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left - left.mean(), right - right.mean()
    size = math.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / size) if size else 0.0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Scale:
    """An axis of the parallel coordinates.

    Attributes:
        title: what stands below it.
        ticks: value in words -> height, 0 to 1.
        heights: of the trials.
    """

    title: str
    ticks: dict[str, float]
    heights: list[float]


def _scale(title: str, values: Sequence[Any]) -> _Scale:
    if not all(_is_number(value) for value in values):
        names = sorted({str(value) for value in values})
        ticks = {name: number / max(1, len(names) - 1) for number, name in enumerate(names)}
        return _Scale(title, ticks, [ticks[str(value)] for value in values])
    low, high = min(values), max(values)
    is_log = low > 0 and high / low > _LOG_FACTOR
    start, end = (math.log(low), math.log(high)) if is_log else (low, high)
    span = (end - start) or 1
    heights = [((math.log(value) if is_log else value) - start) / span for value in values]
    return _Scale(title, {f"{low:.3g}": 0.0, f"{high:.3g}": 1.0}, heights)


@figure_style()
def _parallel_coordinates(scored: Sequence[Row], settings: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    scales = [_scale(_title(name), [row[name] for row in scored]) for name in settings]
    scales.append(_scale("score", [row["score"] for row in scored]))
    best = {
        max((row for row in scored if row["fold"] == fold), key=_success)["trial"]
        for fold in {row["fold"] for row in scored}
    }
    figure = Figure(figsize=(WIDTH_INCH, 3.2))
    axes = figure.add_axes((0.1, 0.3, 0.8, 0.54))
    places = range(len(scales))
    for number, row in enumerate(scored):
        heights = [scale.heights[number] for scale in scales]
        if row["trial"] in best:
            axes.plot(places, heights, clip_on=False, color=_BEST_COLOUR, linewidth=2.2, zorder=4)
        elif row["status"] == "finished":
            axes.plot(places, heights, clip_on=False, color=_FINISHED_COLOUR, linewidth=1.2, zorder=3)
        else:
            axes.plot(
                places, heights, clip_on=False, color=REFERENCE_COLOUR, linewidth=0.9, linestyle=_DASHES, zorder=2
            )
    for place, scale in enumerate(scales):
        _draw_scale(axes, place, scale, is_last=place == len(scales) - 1)
    axes.set_xlim(-0.02, len(scales) - 0.98)
    axes.set_ylim(0, 1)
    axes.axis("off")
    figure.text(0.02, 0.98, "Settings of the trials", va="top", fontsize=10, fontweight="bold")
    others = {row["status"] for row in scored if row["trial"] not in best}
    _legend(figure, "finished" in others, "stopped_early" in others)
    return figure


def _draw_scale(axes: Axes, place: int, scale: _Scale, is_last: bool) -> None:
    axes.plot([place, place], [0, 1], color=REFERENCE_COLOUR, linewidth=0.8, zorder=1)
    for text, height in scale.ticks.items():
        # Lines end at the ends of an axis, so text above and below is not crossed; what lies between stands beside.
        shift, align = {0.0: ((0, -4), ("center", "top")), 1.0: ((0, 4), ("center", "bottom"))}.get(
            height, ((4, 0), ("left", "center"))
        )
        axes.annotate(
            text,
            (place, height),
            xytext=shift,
            textcoords="offset points",
            ha=align[0],
            va=align[1],
            fontsize=8,
            zorder=5,
            annotation_clip=False,
        )
    # Neighbours stand on two lines, so that long names do not meet.
    below = -0.16 if place % 2 == 0 else -0.25
    weight = "bold" if is_last else "normal"
    axes.annotate(
        scale.title, (place, below), ha="center", va="top", fontsize=8, fontweight=weight, annotation_clip=False
    )


def _legend(figure: Figure, has_finished: bool, has_stopped: bool) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=_BEST_COLOUR, linewidth=2.2, label="best of a fold")]
    if has_finished:
        lines.append(Line2D([], [], color=_FINISHED_COLOUR, linewidth=1.2, label="finished"))
    if has_stopped:
        lines.append(Line2D([], [], color=REFERENCE_COLOUR, linewidth=0.9, linestyle=_DASHES, label="stopped early"))
    figure.legend(handles=lines, loc="lower left", ncols=3, fontsize=8, bbox_to_anchor=(0.01, 0))


@figure_style()
def _importance(found: Mapping[str, float]) -> Figure:
    from matplotlib.figure import Figure

    height_inch = 0.9 + 0.32 * len(found)
    figure = Figure(figsize=(WIDTH_INCH, height_inch))
    axes = figure.add_axes((0.3, 0.5 / height_inch, 0.62, 1 - 0.85 / height_inch))
    names = [_title(name) for name in found][::-1]
    axes.barh(names, list(found.values())[::-1], color=_FINISHED_COLOUR, height=0.6)
    for number, value in enumerate(list(found.values())[::-1]):
        axes.annotate(f"{value:.2f}", (value, number), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.5, 1])
    axes.set_xlabel("correlation with success (0 none, 1 all)", fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_title("Importance of the settings", loc="left", fontsize=10, fontweight="bold")
    return figure


def _title(setting: str) -> str:
    return setting.removeprefix("network.").replace("_", " ")
