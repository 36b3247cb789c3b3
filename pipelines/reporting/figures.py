"""Figures of a report: learning curves, scores by class, a case in three planes. Arrays in, figures out.

Nothing here reads a file or keeps a state: figures are made without pyplot, so no window system is asked for.
Colours are those of Okabe and Ito (2008), which stay apart under every common colour-vision deficiency.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENTRY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00")
REFERENCE_COLOUR = "#8a8f94"
INK = "#1b1d1f"

_WIDTH_INCH = 4.6
_CONTOUR_STEPS = 6
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextmanager
def _style() -> Iterator[None]:
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


@dataclass(frozen=True)
class ClassPoint:
    """The mean score of an entry in one class, with the bounds of its interval (NaN where there are none)."""

    entry: str
    class_name: str
    mean: float
    low: float
    high: float


def entry_colours(entries: Sequence[str], references: Sequence[str] = ()) -> dict[str, str]:
    """A colour for every entry, the same in all figures of a report; grey for the reference rows."""
    others = [entry for entry in entries if entry not in references]
    colours = {entry: ENTRY_COLOURS[index % len(ENTRY_COLOURS)] for index, entry in enumerate(others)}
    return colours | dict.fromkeys(references, REFERENCE_COLOUR)


def class_colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for every class of a label map, in order."""
    return {name: CLASS_COLOURS[index % len(CLASS_COLOURS)] for index, name in enumerate(names)}


@_style()
def learning_curves(
    curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
    colours: Mapping[str, str],
    title: str,
) -> Figure:
    """One thin line a training, one thick line for the mean over the trainings of an entry.

    Args:
        curves: for every entry a list of (epochs (N,), values (N,)); the mean spans the epochs all of them reached.
        colours: colour by entry.
        title: what is drawn.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes(3.0)
    for entry, trainings in curves.items():
        for epochs, values in trainings:
            is_only = len(trainings) == 1
            axes.plot(
                epochs,
                values,
                color=colours[entry],
                linewidth=1.6 if is_only else 0.7,
                alpha=1 if is_only else 0.4,
                marker="o" if len(epochs) == 1 else None,
                label=entry if is_only else None,
            )
        if len(trainings) > 1:
            shortest = min((epochs for epochs, _ in trainings), key=len)
            mean = np.mean([values[: len(shortest)] for _, values in trainings], axis=0)
            axes.plot(shortest, mean, color=colours[entry], linewidth=1.8, label=entry)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
    axes.grid(axis="y", color=REFERENCE_COLOUR, alpha=0.3, linewidth=0.5)
    _legend(figure, axes)
    return figure


@_style()
def class_scores(points: Sequence[ClassPoint], colours: Mapping[str, str], title: str) -> Figure:
    """A dot and an interval for every class and entry, grouped by class from top to bottom."""
    names = list(dict.fromkeys(point.class_name for point in points))
    entries = list(dict.fromkeys(point.entry for point in points))
    figure, axes = _axes(0.9 + 0.17 * len(names) * (len(entries) + 1.2))
    step = 1 / (len(entries) + 1.2)
    for point in points:
        height = names.index(point.class_name) + step * (entries.index(point.entry) - (len(entries) - 1) / 2)
        is_first = point.class_name == names[0]
        is_reference = colours[point.entry] == REFERENCE_COLOUR
        axes.plot([point.low, point.high], [height, height], color=colours[point.entry], linewidth=1.4)
        axes.plot(
            [point.mean],
            [height],
            "o",
            markersize=5,
            color=colours[point.entry],
            markerfacecolor="none" if is_reference else colours[point.entry],
            label=point.entry if is_first else None,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=REFERENCE_COLOUR, alpha=0.3, linewidth=0.5)
    axes.set_title(title, loc="left", fontsize=10)
    _legend(figure, axes)
    return figure


@_style()
def overlay(
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    class_values: Sequence[int],
) -> dict[str, Figure]:
    """Three planes of a case: reference filled, prediction as a line, one colour a class.

    Each plane goes through the slice that holds most of the reference and is cut to what was labelled or predicted,
    with a margin. Up is superior or anterior; the patient's right is on the right of the picture.

    Args:
        image: (Z, Y, X), RAS order.
        reference: (Z, Y, X) integers.
        prediction: (Z, Y, X) integers.
        spacing_mm: (z, y, x).
        class_values: label values to draw, in the order of `class_colours`.

    Returns:
        Figures by plane: "axial", "coronal", "sagittal"; a plane with a side under two voxels is left out.
    """
    low, high = np.percentile(image, [0.5, 99.5])
    drawn = np.isin(reference, class_values)
    either = drawn | np.isin(prediction, class_values)
    target = drawn if drawn.any() else either
    box = _box(either, spacing_mm)
    figures = {}
    for plane, axis in (("axial", 0), ("coronal", 1), ("sagittal", 2)):
        others = tuple(other for other in range(3) if other != axis)
        areas = target.sum(axis=others)
        position = int(areas.argmax()) if areas.any() else image.shape[axis] // 2
        cut: list[slice | int] = list(box)
        cut[axis] = position
        slices = [array[tuple(cut)] for array in (image, reference, prediction)]
        if min(slices[0].shape) > 1:
            figures[plane] = _plane(slices, (spacing_mm[others[0]], spacing_mm[others[1]]), (low, high), class_values)
    return figures


def to_png(figure: Figure, dots_per_inch: int = 160) -> bytes:
    """The figure as PNG bytes, on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots_per_inch, metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element to stand inside HTML: text stays text, ink follows the colour of the page.

    Args:
        figure: a figure of this module.
        name: prefix of every id, because ids are shared by all figures of a page.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)


def to_data_address(png: bytes) -> str:
    """PNG bytes as an address that an `img` tag can hold."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _axes(height_inch: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCH, height_inch), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(
            handles,
            names,
            loc="outside lower left",
            ncols=3,
            fontsize=8,
            frameon=False,
            labelcolor=INK,
            handlelength=1.4,
        )


def _box(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> list[slice]:
    if not mask.any():
        return [slice(None)] * 3
    found = np.argwhere(mask)
    first, last = found.min(axis=0), found.max(axis=0) + 1
    margin_mm = max(8.0, 0.25 * float(((last - first) * np.asarray(spacing_mm)).max()))
    margins = np.ceil(margin_mm / np.asarray(spacing_mm)).astype(int)
    return [
        slice(max(0, int(start - margin)), int(stop + margin))
        for start, stop, margin in zip(first, last, margins, strict=True)
    ]


def _plane(
    slices: Sequence[np.ndarray],
    spacing_mm: tuple[float, float],
    window: tuple[float, float],
    class_values: Sequence[int],
) -> Figure:
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure

    image, reference, prediction = slices
    height_mm, width_mm = image.shape[0] * spacing_mm[0], image.shape[1] * spacing_mm[1]
    height_inch = 3.0
    figure = Figure(figsize=(height_inch * width_mm / height_mm, height_inch), facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    aspect = spacing_mm[0] / spacing_mm[1]
    axes.imshow(
        image, cmap="gray", vmin=window[0], vmax=window[1], origin="lower", aspect=aspect, interpolation="nearest"
    )
    for index, value in enumerate(class_values):
        colour = CLASS_COLOURS[index % len(CLASS_COLOURS)]
        filled = np.zeros((*reference.shape, 4))
        filled[reference == value] = to_rgba(colour, 0.38)
        axes.imshow(filled, origin="lower", aspect=aspect, interpolation="nearest")
        # A border of zeros closes the line at the edge of the picture; fine steps keep it on the voxels' borders.
        mask = np.kron(np.pad(prediction == value, 1), np.ones((_CONTOUR_STEPS, _CONTOUR_STEPS)))
        if mask.any():
            rows, columns = ((np.arange(side) + 0.5) / _CONTOUR_STEPS - 1.5 for side in mask.shape)
            axes.contour(columns, rows, mask, levels=[0.5], colors=[colour], linewidths=1.5)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(-0.5, image.shape[0] - 0.5)
    return figure
