"""The histories of trainings: read, as one table, and as curves."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.reporting.curve_figures import Curve

Row = Mapping[str, Any]
History = Mapping[str, Sequence[Row]]

CSV_COLUMNS = ("entry", "fold", "seed", "epoch", "step", "train_loss", "val_score")


def read_history(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of a `history.parquet` by training, keys as in "fold0_seed0", each sorted by epoch."""
    import pyarrow.parquet as pq

    trainings = defaultdict(list)
    for row in pq.read_table(path).to_pylist():
        trainings[f"fold{row['fold']}_seed{row['seed']}"].append(row)
    return {name: sorted(trainings[name], key=lambda row: row["epoch"]) for name in sorted(trainings)}


def learning_curves_csv(histories: Mapping[str, History], score_column: str) -> str:
    """All trainings in one table with the columns `CSV_COLUMNS`; a value that does not exist is empty.

    Args:
        histories: rows by entry and training ("fold0_seed0").
        score_column: the column of a history that becomes `val_score`.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    columns = (*CSV_COLUMNS[3:-1], score_column)
    for entry, trainings in histories.items():
        for training, rows in trainings.items():
            match = re.fullmatch(r"fold(\d+)_seed(\d+)", training)
            assert match, training
            writer.writerows([entry, *match.groups(), *(row.get(key) for key in columns)] for row in rows)
    return buffer.getvalue()


def curves(histories: Mapping[str, History], column: str) -> dict[str, list[Curve]]:
    """(epochs, values) of every training of every entry that has such a column."""
    found = {entry: [_curve(rows, column) for rows in trainings.values()] for entry, trainings in histories.items()}
    kept = {entry: [curve for curve in of_entry if len(curve[0])] for entry, of_entry in found.items()}
    return {entry: of_entry for entry, of_entry in kept.items() if of_entry}


def _curve(rows: Sequence[Row], column: str) -> Curve:
    found = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None and math.isfinite(row[column])]
    return np.array([epoch for epoch, _ in found]), np.array([value for _, value in found])
