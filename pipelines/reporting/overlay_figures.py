"""A case in three planes: the image, the reference filled, the prediction as a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipelines.reporting.figures import CLASS_COLOURS, figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CONTOUR_STEPS = 6


@figure_style()
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
        filled[reference == value] = to_rgba(colour, 0.32)
        axes.imshow(filled, origin="lower", aspect=aspect, interpolation="nearest")
        rows, columns, mask = _fine(prediction == value)
        if mask.any():
            axes.contour(columns, rows, mask, levels=[0.5], colors=[colour], linewidths=1.5)
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(-0.5, image.shape[0] - 0.5)
    return figure


def _fine(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and the mask on a finer grid, so that its contour keeps on the voxels' borders.

    It is cut to what is set, with a border of zeros that closes the line at the edge of the picture.
    """
    found = np.argwhere(mask)
    first, last = (found.min(axis=0), found.max(axis=0) + 1) if len(found) else (np.zeros(2, int), np.ones(2, int))
    cut = np.pad(mask[tuple(map(slice, first, last))], 1)
    rows, columns = (
        start - 1.5 + (np.arange(side * _CONTOUR_STEPS) + 0.5) / _CONTOUR_STEPS
        for start, side in zip(first, cut.shape, strict=True)
    )
    return rows, columns, np.kron(cut, np.ones((_CONTOUR_STEPS, _CONTOUR_STEPS)))
