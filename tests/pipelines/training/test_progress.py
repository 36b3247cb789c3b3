from __future__ import annotations

import pytest

from pipelines.training.progress import Progress


def test_an_epoch_is_the_mean_of_its_steps() -> None:
    progress = Progress()
    for loss in (1.0, 2.0):
        progress.add_step(loss, duration_s=0.5, elapsed_s=9.0)
    metrics = progress.end_epoch(0.1, {"pseudo_dice": 0.7}, "pseudo_dice", "score")
    assert metrics == {
        "train/loss": 1.5,
        "train/learning_rate": 0.1,
        "train/seconds_per_step": 0.5,
        "val/pseudo_dice": 0.7,
    }
    assert progress.history == [
        {"epoch": 0, "step": 2, "train_loss": 1.5, "learning_rate": 0.1, "seconds": 9.0, "val_pseudo_dice": 0.7}
    ]
    progress.add_step(5.0, duration_s=2.0, elapsed_s=11.0)
    assert progress.end_epoch(0.1, {}, "pseudo_dice", "score")["train/loss"] == 5
    assert progress.history[1]["epoch"] == 1
    assert progress.history[1]["step"] == 3


@pytest.mark.parametrize(
    ("scores", "num_epochs_since"),
    [
        ([{"pseudo_dice": 0.1, "loss": 1.0}, {"pseudo_dice": 0.2, "loss": 2.0}], 0),
        ([{"pseudo_dice": 0.2}, {"pseudo_dice": 0.2}, {"pseudo_dice": 0.1}], 2),
        ([{"pseudo_dice": 0.2}, {"pseudo_dice": 0.1}, {"pseudo_dice": 0.3}], 0),
        ([{"pseudo_dice": 0.2}, {"pseudo_dice": float("nan")}], 1),
        ([{"loss": 2.0}, {"loss": 1.0}], 0),
        ([{"loss": 1.0}, {"loss": 2.0}], 1),
    ],
)
def test_the_score_is_the_one_named_else_the_loss(scores: list[dict[str, float]], num_epochs_since: int) -> None:
    progress = Progress()
    for epoch_scores in scores:
        progress.add_step(1.0, duration_s=1.0, elapsed_s=1.0)
        progress.end_epoch(0.1, epoch_scores, "pseudo_dice", "score")
    assert progress.best.num_epochs_since == num_epochs_since


def test_its_values_are_plain_and_give_it_back() -> None:
    progress = Progress()
    progress.add_step(1.0, duration_s=1.0, elapsed_s=1.0)
    progress.end_epoch(0.1, {"accuracy": 0.5, "loss": 2.0}, "accuracy", "score_and_loss")
    values = progress.values()
    assert values["best"] == {"score": 0.5, "loss": 2.0, "num_epochs_since": 0, "epoch": 0}
    assert Progress.from_values(values) == progress
