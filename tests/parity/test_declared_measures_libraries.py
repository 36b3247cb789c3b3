"""Rand error and AUC equal those of scikit-image and scikit-learn; precision and AJI equal loops over object pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from pipelines.metrics.discrimination import area_under_roc, sensitivity, specificity
from pipelines.metrics.objects import aggregated_jaccard, overlaps, pieces, precision_at
from pipelines.metrics.partition import rand_error, thinned

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


def _masks(seed: int, shape: tuple[int, ...] = (60, 70)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    common, own, other = (gaussian_filter(rng.normal(size=shape), 2) for _ in range(3))
    return common + 0.4 * own > 0.04, common + 0.4 * other > 0.04


@pytest.mark.parametrize("seed", range(4))
def test_the_rand_error_is_scikit_images_adapted_one_of_the_thinned_regions(seed: int) -> None:
    from skimage.metrics import adapted_rand_error

    prediction, reference = _masks(seed)
    expected, _, _ = adapted_rand_error(pieces(reference), thinned(pieces(prediction)), ignore_labels=(0,), alpha=0.5)
    assert 0.05 < expected < 0.95
    assert rand_error(prediction, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_values", [3, 200, 65536])
def test_the_area_is_scikit_learns(num_values: int) -> None:
    from sklearn.metrics import recall_score, roc_auc_score

    rng = np.random.default_rng(num_values)
    reference = rng.random(5000) < 0.07
    values = np.clip(rng.normal(0.4 + 0.2 * reference, 0.15), 0, 1) * (num_values - 1)
    probability = values.astype(np.uint16)
    assert area_under_roc(probability, reference) == pytest.approx(roc_auc_score(reference, probability), abs=1e-12)
    predicted = probability > num_values // 2
    assert sensitivity(predicted, reference) == pytest.approx(recall_score(reference, predicted), abs=1e-12)
    assert specificity(predicted, reference) == pytest.approx(
        recall_score(reference, predicted, pos_label=False), abs=1e-12
    )


@pytest.mark.parametrize("seed", range(4))
def test_objects_agree_with_loops_over_all_pairs(seed: int) -> None:
    prediction, reference = (pieces(mask) for mask in _masks(seed))
    found = overlaps(prediction, reference)
    table = np.zeros((reference.max(), prediction.max()))
    intersections, unions = table.copy(), table.copy()
    for i, j in np.ndindex(*table.shape):
        ours, theirs = reference == i + 1, prediction == j + 1
        intersections[i, j], unions[i, j] = (ours & theirs).sum(), (ours | theirs).sum()
    table = intersections / unions
    for threshold in (0.5, 0.6, 0.75):
        hits = (table > threshold).sum()
        assert precision_at(found, threshold) == pytest.approx(hits / (sum(table.shape) - hits))
    assert (table > 0.5).sum() > 2
    above, below, used = 0.0, 0.0, set()
    for i, ious in enumerate(table):
        best = int(ious.argmax())
        if not ious[best]:
            below += (reference == i + 1).sum()
            continue
        used.add(best)
        above, below = above + intersections[i, best], below + unions[i, best]
    below += sum((prediction == j + 1).sum() for j in range(table.shape[1]) if j not in used)
    assert aggregated_jaccard(found) == pytest.approx(above / below)
