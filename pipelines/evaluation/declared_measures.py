"""Measures that a data set declares beside those of every data set, of one class of one case.

    object_ap, object_ap50   average precision of objects, and at an intersection over union of 0.5 alone
    aggregated_jaccard       aggregated Jaccard index of objects
    pixel_error, rand_error  of regions parted by borders
    sensitivity, specificity, auc

Definitions: `pipelines.metrics.objects`, `partition` and `discrimination`. Predicted objects are the connected pieces
of the class; reference objects those of the annotation, or, where it has none, the connected pieces of the class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_OF_OBJECTS = frozenset({"object_ap", "object_ap50", "aggregated_jaccard"})
_OF_PROBABILITIES = frozenset({"auc"})


def needs_probabilities(keys: Sequence[str]) -> bool:
    """Whether any of these measures is of probabilities."""
    return not _OF_PROBABILITIES.isdisjoint(keys)


def declared_values(
    keys: Sequence[str],
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    is_counted: NDArray[np.bool_] | None = None,
    objects: NDArray | None = None,
    probability: NDArray[np.uint16] | None = None,
) -> dict[str, float]:
    """Value of each measure, NaN where it is to be left out.

    Args:
        keys: of the module's list.
        prediction: mask of the class, 2D or 3D.
        reference: mask of the same shape.
        is_counted: voxels that are scored; None for all. The masks are false elsewhere.
        objects: reference objects of all classes, numbered from 1; None where they are not known.
        probability: of the class, in 16 bits; needed by `auc`.
    """
    from pipelines.metrics.discrimination import area_under_roc, sensitivity, specificity
    from pipelines.metrics.objects import aggregated_jaccard, average_precision, overlaps, pieces, precision_at
    from pipelines.metrics.partition import pixel_error, rand_error

    found = None
    if not _OF_OBJECTS.isdisjoint(keys):
        of_class = pieces(reference) if objects is None else np.where(reference, objects, 0)
        found = overlaps(pieces(prediction), of_class)
    counted = (prediction, reference) if is_counted is None else (prediction[is_counted], reference[is_counted])
    values = {}
    for key in keys:
        if key in _OF_OBJECTS:
            assert found is not None
            if key == "aggregated_jaccard":
                values[key] = aggregated_jaccard(found)
            else:
                values[key] = average_precision(found) if key == "object_ap" else precision_at(found, 0.5)
        elif key == "rand_error":
            values[key] = rand_error(prediction, reference)
        elif key == "auc":
            assert probability is not None, "auc needs probabilities"
            values[key] = area_under_roc(probability if is_counted is None else probability[is_counted], counted[1])
        else:
            of_voxels = {"pixel_error": pixel_error, "sensitivity": sensitivity, "specificity": specificity}[key]
            values[key] = of_voxels(*counted)
    return values
