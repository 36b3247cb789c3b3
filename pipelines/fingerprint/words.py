"""A fingerprint in sentences, for a person who has not seen the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.fingerprint.extract import Fingerprint


def sentences(fingerprint: Fingerprint) -> list[str]:
    """What planning knows of the training cases: spacings, shapes, intensities, classes.

    Args:
        fingerprint: of the training cases; spacings and shapes are told in the order z, y, x.
    """
    spacings, shapes = np.array(fingerprint.spacings_mm), np.array(fingerprint.shapes_after_crop)
    kinds = sorted({tuple(spacing) for spacing in fingerprint.spacings_mm})
    told = [f"{len(fingerprint.case_ids)} training cases were measured."]
    if len(kinds) == 1:
        told.append(f"All have a spacing of {_sides(kinds[0])} mm (z, y, x).")
    else:
        told.append(
            f"Their median spacing is {_sides(np.median(spacings, axis=0))} mm (z, y, x), from "
            f"{_sides(spacings.min(axis=0))} to {_sides(spacings.max(axis=0))} mm side by side."
        )
    ratios = spacings.max(axis=1) / spacings.min(axis=1)
    if ratios.max() > 1.05:
        told.append(
            f"A voxel is {np.median(ratios):.2g} times as long as wide in the median case, {ratios.max():.2g} times in "
            "the most anisotropic one."
        )
    told.append(
        f"The median shape is {_sides(np.median(shapes, axis=0))} voxels, from {_sides(shapes.min(axis=0))} to "
        f"{_sides(shapes.max(axis=0))} side by side; cropping to what is not zero keeps "
        f"{_percent(fingerprint.median_relative_size_after_cropping)} of a median image."
    )
    for number, channel in enumerate(fingerprint.intensity):
        middle = f"{channel['median']:.4g} (mean {channel['mean']:.4g}, standard deviation {channel['std']:.4g})"
        told.append(
            f"Foreground intensities of channel {number} lie around {middle}; 99 % of them are between "
            f"{channel['percentile_00_5']:.4g} and {channel['percentile_99_5']:.4g}."
        )
    total = sum(fingerprint.label_voxels.values())
    shares = [f"{name} {_percent(voxels / total)}" for name, voxels in fingerprint.label_voxels.items()]
    return [*told, f"Share of the labelled voxels: {', '.join(shares)}."]


def _sides(values: Sequence[float] | np.ndarray) -> str:
    return " × ".join(f"{value:.3g}" for value in values)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"
