from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.evaluation.intervals import bootstrap_interval


def test_one_patient_has_no_width() -> None:
    assert bootstrap_interval([0.2, 0.4], ["a", "a"]) == pytest.approx((0.3, 0.3, 0.3))


def test_equal_values_have_no_width() -> None:
    assert bootstrap_interval([0.5] * 4, list("abcd")) == (0.5, 0.5, 0.5)


def test_two_patients_span_their_means() -> None:
    # Draws are (a, a), (b, b) with chance 1/4 each and (a, b): the percentiles fall on the outer ones.
    assert bootstrap_interval([0.0, 1.0], ["a", "b"]) == (0.5, 0.0, 1.0)


def test_a_patient_weighs_by_its_cases() -> None:
    mean, low, high = bootstrap_interval([0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"])
    assert (mean, low, high) == (0.25, 0.0, 1.0)


def test_cases_of_one_patient_are_drawn_together() -> None:
    values = list(np.random.default_rng(0).normal(size=5))
    alone = bootstrap_interval(values, range(5))
    assert bootstrap_interval(np.repeat(values, 10), np.repeat(range(5), 10)) == pytest.approx(alone)


def test_nan_is_left_out() -> None:
    kept = bootstrap_interval([0.1, 0.9], ["a", "c"])
    assert bootstrap_interval([0.1, math.nan, 0.9], ["a", "b", "c"]) == kept


def test_nothing_left_is_nan() -> None:
    assert all(math.isnan(value) for value in bootstrap_interval([math.nan], ["a"]))
    assert all(math.isnan(value) for value in bootstrap_interval([], []))


def test_the_seed_decides() -> None:
    values, groups = np.random.default_rng(0).uniform(size=20), range(20)
    assert bootstrap_interval(values, groups, seed=1) == bootstrap_interval(values, groups, seed=1)
    assert bootstrap_interval(values, groups, seed=1) != bootstrap_interval(values, groups, seed=2)


def test_width_is_that_of_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=400)
    _, low, high = bootstrap_interval(values, range(400))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)
