from __future__ import annotations

import math

import numpy as np
import pytest

from pipelines.fingerprint.intensity import STATISTICS, foreground_values, statistics


def test_statistics_by_hand() -> None:
    # 0.5 % of 0..200 is 1, 99.5 % is 199; the variance of n consecutive whole numbers is (n * n - 1) / 12
    result = statistics(np.arange(201, dtype=np.float32))
    assert tuple(result) == STATISTICS
    assert result == pytest.approx(
        {
            "mean": 100,
            "median": 100,
            "std": math.sqrt((201**2 - 1) / 12),
            "min": 0,
            "max": 200,
            "percentile_00_5": 1,
            "percentile_99_5": 199,
        }
    )


def test_no_values_have_no_statistics() -> None:
    assert all(math.isnan(value) for value in statistics(np.zeros(0, np.float32)).values())


def test_all_foreground_is_taken_when_it_fits() -> None:
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    foreground = np.zeros((3, 2, 2), bool)
    foreground[0, 0, 1] = foreground[2, 1, 1] = True
    assert foreground_values(image, foreground, 2, "a").tolist() == [[1, 11], [13, 23]]


def test_draw_is_without_replacement_and_the_case_decides() -> None:
    image = np.arange(1000, dtype=np.float32).reshape(1, 10, 10, 10)
    foreground = np.ones((10, 10, 10), bool)
    first, again, other = (foreground_values(image, foreground, 100, name) for name in ("a", "a", "b"))
    assert len(set(first[0].tolist())) == 100
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
