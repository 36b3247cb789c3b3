from __future__ import annotations

from typing import Any

import pytest

from pipelines.reporting.figures import to_svg
from pipelines.reporting.search_figures import importance, search_figures, varied_settings


def trial(number: int, score: float | None, status: str = "finished", fold: int = 0, **settings: Any) -> dict[str, Any]:
    told = {"score": score, "epochs": 3, "status": status, "seconds": 1.0, "reason": ""}
    return {"trial": f"fold{fold}_trial{number:03d}", "fold": fold, **settings, **told}


def trials() -> list[dict[str, Any]]:
    """Better with every step of the learning rate, whatever the norm."""
    norms = ["batch", "instance", "instance", "batch"]
    return [
        trial(number, 0.1 * number, learning_rate=10.0**number, norm=norm, momentum=0.9)
        for number, norm in enumerate(norms)
    ]


def test_what_decides_comes_first_and_what_does_not_has_no_weight() -> None:
    found = importance(trials())
    assert list(found) == ["learning_rate", "norm"]
    assert found["learning_rate"] == pytest.approx(1)
    assert found["norm"] == pytest.approx(0)


def test_a_choice_is_weighed_by_the_share_of_the_variance_between_its_values() -> None:
    rows = [trial(0, 0.1, optimizer="sgd"), trial(1, 0.2, optimizer="sgd"), trial(2, 0.3, optimizer="adamw")]
    # Ranks 0, 0.5 and 1: mean 0.5, sum of squares 0.5, of which 2 * 0.25 ** 2 + 0.5 ** 2 lie between the optimisers.
    assert importance(rows)["optimizer"] == pytest.approx((0.375 / 0.5) ** 0.5)


def test_a_trial_that_came_further_is_better_whatever_its_score() -> None:
    rows = [trial(0, 0.5, learning_rate=1.0), trial(1, 0.9, "stopped_early", learning_rate=0.1)]
    rows += [trial(2, None, "failed", learning_rate=0.01)]
    assert importance(rows)["learning_rate"] == pytest.approx(1)


def test_a_fold_with_higher_scores_does_not_count_as_better_settings() -> None:
    low = [trial(number, 0.1 * number, learning_rate=0.1 - 0.01 * number) for number in range(3)]
    high = [trial(number, 0.7 + 0.1 * number, fold=1, learning_rate=0.2 - 0.01 * number) for number in range(3)]
    assert importance(low)["learning_rate"] == pytest.approx(1)
    within = importance(low + high)["learning_rate"]
    assert 0.3 < within < 0.6, "lower is better in each fold, although the better fold has the higher rates"


def test_the_pictures_name_every_setting_that_was_varied_and_no_other() -> None:
    rows = trials()
    assert varied_settings(rows) == ["learning_rate", "norm"]
    figures = search_figures(rows)
    assert list(figures) == ["parallel_coordinates", "importance"]
    for name, figure in figures.items():
        svg = to_svg(figure, name, name)
        assert "learning rate" in svg
        assert ">norm<" in svg
        assert "momentum" not in svg
    lines = to_svg(figures["parallel_coordinates"], "p", "p")
    assert ">instance<" in lines
    assert "best of a fold" in lines
    assert "stopped early" not in lines


def test_a_failed_trial_has_no_line_but_counts() -> None:
    rows = [*trials(), trial(4, None, "failed", learning_rate=1e9, norm="batch", momentum=0.9)]
    (axes,) = search_figures(rows)["parallel_coordinates"].axes
    drawn = [line for line in axes.lines if len(line.get_xdata()) > 2]
    assert len(drawn) == 4
    assert importance(rows)["learning_rate"] < 1


@pytest.mark.parametrize(
    "rows",
    [[], trials()[:3], [trial(number, 0.1, momentum=0.9) for number in range(5)], [trial(n, None) for n in range(5)]],
    ids=["none", "three", "nothing varied", "all failed"],
)
def test_there_is_no_picture_where_there_is_nothing_to_see(rows: list[dict[str, Any]]) -> None:
    assert search_figures(rows) == {}
