"""Dice, HD95, ASSD and surface Dice equal MONAI's to 1e-4 (it works in single precision)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipelines.metrics.overlap import confusion_counts, dice, iou
from pipelines.metrics.surface import surface_scores

pytestmark = [pytest.mark.parity, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def _pair(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    common, own, other = (gaussian_filter(rng.normal(size=shape), 2) for _ in range(3))
    return common + 0.5 * own > 0.03, common + 0.5 * other > 0.03


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((16, 24, 20), (1.0, 1.0, 1.0)),
        ((12, 30, 26), (5.0, 0.78, 0.78)),
        ((14, 18, 22), (2.5, 0.6, 1.3)),
        ((40, 36), (0.5, 1.5)),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("tolerance_mm", [1.0, 2.6])
def test_equal_on_random_blobs(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], seed: int, tolerance_mm: float
) -> None:
    import torch
    from monai.metrics import (
        DiceMetric,
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_iou,
        compute_surface_dice,
    )

    prediction, reference = _pair(seed, shape)
    theirs = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference)]
    counts = confusion_counts(prediction, reference, 2)[1]
    scores = surface_scores(prediction, reference, spacing_mm, tolerance_mm)
    assert 0.1 < scores.nsd < 1
    assert dice(*counts) == pytest.approx(DiceMetric()(*theirs).item(), abs=1e-4)
    assert iou(*counts) == pytest.approx(compute_iou(*theirs).item(), abs=1e-4)
    hausdorff = compute_hausdorff_distance(*theirs, include_background=True, percentile=95, spacing=spacing_mm)
    assert scores.hd95_mm == pytest.approx(hausdorff.item(), abs=1e-4)
    average = compute_average_surface_distance(*theirs, include_background=True, symmetric=True, spacing=spacing_mm)
    assert scores.assd_mm == pytest.approx(average.item(), abs=1e-4)
    surface = compute_surface_dice(*theirs, [tolerance_mm], include_background=True, spacing=spacing_mm)
    assert scores.nsd == pytest.approx(surface.item(), abs=1e-4)
