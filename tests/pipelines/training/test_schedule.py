from __future__ import annotations

import pytest

from pipelines.training.schedule import Schedule


@pytest.mark.parametrize(
    ("epoch", "learning_rate"), [(0, 0.01), (1, 0.009991), (500, 0.00535887), (999, 1.995e-5)], ids=str
)
def test_polynomial_gives_the_rates_of_nnunet(epoch: int, learning_rate: float) -> None:
    assert 0.01 * Schedule("polynomial").factor(epoch / 1000) == pytest.approx(learning_rate, rel=2e-4)


@pytest.mark.parametrize(("progress", "factor"), [(0, 1), (1 / 3, 0.75), (0.5, 0.5), (1, 0)], ids=str)
def test_cosine_falls_from_one_to_zero(progress: float, factor: float) -> None:
    assert Schedule("cosine").factor(progress) == pytest.approx(factor)


@pytest.mark.parametrize("progress", [0, 0.5, 1])
def test_constant_stays(progress: float) -> None:
    assert Schedule("constant").factor(progress) == 1


@pytest.mark.parametrize("name", ["cosine", "polynomial"])
@pytest.mark.parametrize(("progress", "factor"), [(0, 0), (0.05, 0.25), (0.15, 0.75), (0.2, 1), (1, 0)], ids=str)
def test_warm_up_rises_linearly_and_the_curve_spans_the_rest(name: str, progress: float, factor: float) -> None:
    assert Schedule(name, warmup_fraction=0.2).factor(progress) == pytest.approx(factor)


def test_cosine_is_halfway_down_in_the_middle_of_what_the_warm_up_left() -> None:
    assert Schedule("cosine", warmup_fraction=0.2).factor(0.6) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "warmup_fraction", "is_per_step"),
    [("polynomial", 0, False), ("polynomial", 0.1, True), ("cosine", 0, True)],
)
def test_only_the_plain_polynomial_stands_still_in_an_epoch(
    name: str, warmup_fraction: float, is_per_step: bool
) -> None:
    assert Schedule(name, warmup_fraction=warmup_fraction).is_per_step == is_per_step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "step"}, "'step' is unknown; choose one of polynomial, cosine, constant"),
        ({"name": "cosine", "warmup_fraction": 1.0}, "at least 0 and below 1"),
    ],
)
def test_a_wrong_setting_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**arguments)
