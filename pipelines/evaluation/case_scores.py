"""Scores of one predicted label map against its reference, one row a class, and their Parquet file.

A score that is NaN means leave out (see `pipelines.metrics.surface` for empty classes). Where scores of several
entries, seeds or folds meet, every row also says where it comes from:

    case_id, patient, class_name
    split    "validation": the out-of-fold prediction of a training case, by the model of `fold`;
             "test": the prediction of a test case, usually by all folds together.
    fold     fold of the model; null where several folds predicted together.
    seed     seed of the model; null where several seeds predicted together.
    dice, iou, nsd (0 .. 1), hd95_mm, assd_mm
    and what the data set declares (`pipelines.evaluation.declared_measures`)
    reference_voxels, predicted_voxels
    fallback what the prediction gave up for want of memory, null if nothing (`pipelines.inference.placement`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.atomic_files import atomic_path
from pipelines.evaluation.declared_measures import declared_values
from pipelines.metrics.overlap import confusion_counts, dice, iou
from pipelines.metrics.surface import surface_scores

OUT_OF_FOLD = "validation"
TEST = "test"
MEASURES = ("dice", "iou", "hd95_mm", "assd_mm", "nsd")


def score_case(
    prediction: NDArray,
    reference: NDArray,
    labels: Mapping[str, int],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    ignore_label: int | None = None,
    declared: Sequence[str] = (),
    objects: NDArray | None = None,
    probabilities: NDArray[np.uint16] | None = None,
) -> list[dict[str, Any]]:
    """Score every foreground class of one case.

    A case of a single slice is scored in its plane: nothing lies above or below that would make all of it surface.

    Args:
        prediction: (Z, Y, X) integer label map.
        reference: (Z, Y, X) integer label map.
        labels: class name to label value; background is 0 and gets no row, nor does the ignore label.
        spacing_mm: voxel size (z, y, x).
        tolerance_mm: tolerance of the normalised surface Dice.
        ignore_label: reference voxels of this value are left out: they belong to no class in either map.
        declared: measures that the data set declares.
        objects: (Z, Y, X) reference objects, numbered from 1; None where they are not known.
        probabilities: (K, Z, Y, X) of each class, in 16 bits; only what is declared may need them.

    Returns:
        One dict a class in label order: class_name, dice, iou, hd95_mm, assd_mm, nsd, what is declared,
        reference_voxels, predicted_voxels.

    Raises:
        ValueError: the maps differ in shape, or hold a value that is no label.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction has shape {prediction.shape}, reference {reference.shape}; "
            "a prediction must be on the grid of its scan: predict the case again"
        )
    is_counted = None
    if ignore_label is not None:
        is_ignored = reference == ignore_label
        is_counted = ~is_ignored
        prediction, reference = np.where(is_ignored, 0, prediction), np.where(is_ignored, 0, reference)
    num_classes = 1 + max(value for value in labels.values() if value != ignore_label)
    for name, array in (("prediction", prediction), ("reference", reference)):
        if array.min() < 0 or array.max() >= num_classes:
            raise ValueError(
                f"{name} holds the values {array.min()} to {array.max()}, but the labels are 0 to {num_classes - 1}; "
                "declare the missing labels or repair the file"
            )
    counts = confusion_counts(prediction, reference, num_classes)
    plane, plane_mm = _plane(reference.shape, spacing_mm)
    rows = []
    for name, value in sorted(labels.items(), key=lambda label: label[1]):
        if value in (0, ignore_label):
            continue
        true_positive, false_positive, false_negative = (int(count) for count in counts[value])
        is_predicted, is_referenced = prediction == value, reference == value
        surface = surface_scores(is_predicted[plane], is_referenced[plane], plane_mm, tolerance_mm)
        probability = None if probabilities is None else probabilities[value]
        rows.append(
            {
                "class_name": name,
                "dice": float(dice(true_positive, false_positive, false_negative)),
                "iou": float(iou(true_positive, false_positive, false_negative)),
                "hd95_mm": surface.hd95_mm,
                "assd_mm": surface.assd_mm,
                "nsd": surface.nsd,
                **declared_values(declared, is_predicted, is_referenced, is_counted, objects, probability),
                "reference_voxels": true_positive + false_negative,
                "predicted_voxels": true_positive + false_positive,
            }
        )
    return rows


def write_scores(path: Path | str, rows: Sequence[Mapping[str, Any]], declared: Sequence[str] = ()) -> None:
    """Write rows with the keys of the module, the declared measures among them, to a Parquet file."""
    schema = pa.schema(
        [
            pa.field("case_id", pa.string(), nullable=False),
            pa.field("patient", pa.string(), nullable=False),
            pa.field("class_name", pa.string(), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("fold", pa.int64()),
            pa.field("seed", pa.int64()),
            *(pa.field(measure, pa.float64(), nullable=False) for measure in (*MEASURES, *declared)),
            pa.field("reference_voxels", pa.int64(), nullable=False),
            pa.field("predicted_voxels", pa.int64(), nullable=False),
            pa.field("fallback", pa.string()),
        ]
    )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary)


def read_scores(path: Path | str) -> list[dict[str, Any]]:
    """Read the score rows of an entry, of any family."""
    return pq.read_table(path).to_pylist()


def _plane(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[tuple[slice | int, ...], list[float]]:
    """The plane of a case of a single slice, and its spacing; all of any other case."""
    single = [axis for axis, side in enumerate(shape) if side == 1]
    if len(single) != 1:
        return (slice(None),) * len(shape), list(spacing_mm)
    plane = tuple(0 if axis in single else slice(None) for axis in range(len(shape)))
    return plane, [step for axis, step in enumerate(spacing_mm) if axis not in single]
