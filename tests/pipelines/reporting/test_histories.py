from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.reporting.histories import curves, learning_curves_csv, read_history


def history(num_epochs, **more):
    return [
        {"epoch": epoch, "step": 10 * (epoch + 1), "train_loss": 1 / (epoch + 1), **more} for epoch in range(num_epochs)
    ]


def test_a_history_is_read_by_training(tmp_path):
    rows = [
        {"fold": 1, "seed": 0, "epoch": 1, "step": 20, "train_loss": 0.5},
        {"fold": 1, "seed": 0, "epoch": 0, "step": 10, "train_loss": 1.0},
    ]
    rows.append({"fold": 0, "seed": 2, "epoch": 0, "step": 10, "train_loss": 2.0})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "history.parquet")
    found = read_history(tmp_path / "history.parquet")
    assert list(found) == ["fold0_seed2", "fold1_seed0"]
    assert [row["train_loss"] for row in found["fold1_seed0"]] == [1.0, 0.5]


def test_the_learning_curves_of_all_entries_are_one_table():
    text = learning_curves_csv(
        {"a": {"fold0_seed1": history(1, val_accuracy=0.5)}, "b": {"fold2_seed0": history(1)}}, "val_accuracy"
    )
    assert text.splitlines() == [
        "entry,fold,seed,epoch,step,train_loss,val_score",
        "a,0,1,0,10,1.0,0.5",
        "b,2,0,0,10,1.0,",
    ]


def test_a_curve_has_the_epochs_that_were_measured():
    trainings = {"fold0_seed0": [*history(2), {"epoch": 2, "train_loss": math.nan}, {"epoch": 3, "train_loss": 0.1}]}
    ((epochs, values),) = curves({"a": trainings, "b": {"fold0_seed0": []}}, "train_loss")["a"]
    assert (list(epochs), list(values)) == ([0, 1, 3], [1.0, 0.5, 0.1])
    assert curves({"a": trainings}, "val_score") == {}
