from __future__ import annotations

import math

import pytest

from pipelines.training.early_stop import RULES, BestSoFar, is_over

NAN = math.nan


def after(rule: str, scores: list[float], losses: list[float]) -> BestSoFar:
    best = BestSoFar()
    for epoch, (score, loss) in enumerate(zip(scores, losses, strict=True)):
        best.end_epoch(rule, epoch, score, loss)
    return best


@pytest.mark.parametrize(
    ("rule", "scores", "losses", "epoch", "num_epochs_since"),
    [
        ("score", [0.1, 0.3, 0.2, 0.3], [3, 2, 1, 0], 1, 2),
        ("mean_loss", [0.1, 0.3, 0.2, 0.3], [3, 2, 1, 0], 1, 2),
        # As good as ever counts, in one of the two to go on, in both to be the best.
        ("score_and_loss", [0.1, 0.3, 0.2, 0.3], [3, 2, 1, 0], 3, 0),
        ("score_and_loss", [0.1, 0.3, 0.2, 0.3], [3, 2, 1, 2], 1, 0),
        ("score_and_loss", [0.1, 0.3, 0.2, 0.2], [3, 2, 1, 2], 1, 1),
        ("score_and_loss", [0.3, 0.2, 0.1], [1, 2, 3], 0, 2),
        ("score", [NAN, 0.1, NAN], [1, 1, 1], 1, 1),
        ("score_and_loss", [0.1, NAN], [1, NAN], 0, 1),
        ("score", [NAN], [NAN], None, 1),
    ],
)
def test_the_best_epoch_and_how_long_ago_something_was_reached(
    rule: str, scores: list[float], losses: list[float], epoch: int | None, num_epochs_since: int
) -> None:
    best = after(rule, scores, losses)
    assert (best.epoch, best.num_epochs_since) == (epoch, num_epochs_since)


@pytest.mark.parametrize("rule", ["score", "score_and_loss"])
def test_patience_ends_with_that_many_epochs_in_which_nothing_was_reached(rule: str) -> None:
    scores, losses = [0.5, 0.4, 0.4, 0.4], [1.0, 2.0, 2.0, 2.0]
    ends = [is_over(rule, 3, after(rule, scores[:end], losses[:end]), losses[:end]) for end in range(1, 5)]
    assert ends == [False, False, False, True]


@pytest.mark.parametrize(
    ("losses", "is_end"),
    [
        ([3, 2, 1, 1.6], True),  # above the mean of the two before, 1.5
        ([3, 2, 1, 1.5], False),
        ([0, 2, 1, 1.6], True),  # what came before them does not count
        ([2, 1, 1.6], False),  # the first of the code that may end comes after three others
        ([2, 1, 1, NAN], False),
    ],
)
def test_the_loss_against_its_mean_over_the_epochs_before(losses: list[float], is_end: bool) -> None:
    assert is_over("mean_loss", 2, BestSoFar(), losses) == is_end


@pytest.mark.parametrize("rule", RULES)
def test_looking_back_no_epoch_never_ends(rule: str) -> None:
    assert not is_over(rule, 0, BestSoFar(num_epochs_since=1000), [1.0] * 50 + [9.0])
