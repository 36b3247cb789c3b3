from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from pipelines.fingerprint.intensity import STATISTICS, Moments, ValueCounts, statistics

VALUES = {
    "CT": np.random.default_rng(0).normal(-50, 300, 40_001).round().astype(np.float32),
    "scaled": (np.random.default_rng(1).integers(0, 4000, 30_000) * 0.0125).astype(np.float32),
    "float": np.random.default_rng(2).normal(0, 1, 20_000).astype(np.float32),
    "over many magnitudes": np.exp(np.random.default_rng(3).normal(0, 20, 5_000)).astype(np.float32),
    "two": np.array([3, -7], np.float32),
    "one": np.array([-0.5], np.float32),
    "equal": np.full(100, 1e-3, np.float32),
    "the largest": np.array([-3.4e38, 0, 3.4e38], np.float32),
}


def parts(values: np.ndarray, num_parts: int) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(num_parts).permutation(values), num_parts)


def counted(values: np.ndarray, num_parts: int, max_cells: int) -> ValueCounts:
    each = [ValueCounts.of(part, max_cells) for part in parts(values, num_parts)]
    return functools.reduce(ValueCounts.merged, each, ValueCounts.none(max_cells))


def test_statistics_by_hand() -> None:
    # 0.5 % of 0..200 is 1, 99.5 % is 199; the variance of n consecutive whole numbers is (n * n - 1) / 12
    values = np.arange(201, dtype=np.float32)
    result = statistics(Moments.of(values), ValueCounts.of(values))
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
            "percentile_error": 0,
        }
    )


def test_no_values_have_no_statistics() -> None:
    result = statistics(Moments(), ValueCounts.none())
    assert tuple(result) == STATISTICS
    assert all(math.isnan(value) for value in result.values())


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("num_parts", [1, 7])
def test_statistics_of_all_parts_are_those_numpy_gives_of_the_whole(name: str, num_parts: int) -> None:
    values = VALUES[name]
    moments = functools.reduce(Moments.merged, map(Moments.of, parts(values, num_parts)))
    result = statistics(moments, counted(values, num_parts, 2**20))
    whole = values.astype(np.float64)
    low, median, high = np.percentile(whole, [0.5, 50, 99.5])
    expected = [whole.mean(), median, whole.std(), whole.min(), whole.max(), low, high, 0]
    np.testing.assert_allclose(list(result.values()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("max_cells", [64, 1000, 2**20])
@pytest.mark.parametrize("name", VALUES)
def test_counts_do_not_depend_on_how_the_values_are_parted(name: str, max_cells: int) -> None:
    whole = ValueCounts.of(VALUES[name], max_cells)
    for num_parts in (2, 5, 40):
        merged = counted(VALUES[name], num_parts, max_cells)
        assert merged.shift == whole.shift
        np.testing.assert_array_equal(merged.cells, whole.cells)
        np.testing.assert_array_equal(merged.counts, whole.counts)


@pytest.mark.parametrize("name", VALUES)
def test_more_values_than_cells_fill_as_many_as_fit_and_the_error_is_told(name: str) -> None:
    values = VALUES[name].astype(np.float64)
    counts = ValueCounts.of(VALUES[name], max_cells=500)
    assert counts.cells.size <= 500
    assert counts.counts.sum() == values.size
    assert (counts.shift == 0) == (np.unique(values).size <= 500)
    result = statistics(Moments.of(VALUES[name]), counts)
    for key, percentile in (("percentile_00_5", 0.5), ("median", 50), ("percentile_99_5", 99.5)):
        exact = np.percentile(values, percentile)
        assert abs(result[key] - exact) <= result["percentile_error"] * (1 + 1e-9) + 1e-12 * abs(exact)
        assert result["min"] <= result[key] <= result["max"]
    assert (result["percentile_error"] == 0) == (counts.shift == 0)


def test_a_million_different_values_are_exact_and_more_are_told_to_a_4096th() -> None:
    some = np.arange(2**20, dtype=np.float32) + 3
    assert statistics(Moments.of(some), ValueCounts.of(some))["percentile_error"] == 0
    more = np.concatenate([some * 1.7, -some * 0.3]).astype(np.float32)
    result = statistics(Moments.of(more), ValueCounts.of(more))
    assert 0 < result["percentile_error"] <= np.abs(more).max() / 4096
    assert result["percentile_99_5"] == pytest.approx(np.percentile(more.astype(float), 99.5), rel=1 / 4096)
    # Whatever the values are, 12 bits less leave no more than 2**20 cells.
    every_4093rd = np.arange(0x00800000, 0xFF7FFFFF, 4093, dtype=np.int64)
    bits = np.where(every_4093rd >> 31 == 1, every_4093rd ^ (1 << 31), ~every_4093rd & 0xFFFFFFFF)
    assert ValueCounts.of(bits.astype(np.uint32).view(np.float32)).shift <= 12


def test_moments_do_not_lose_a_small_spread_around_a_large_mean() -> None:
    values = (np.random.default_rng(0).normal(0, 1, 50_000) + 1e6).astype(np.float32)
    moments = functools.reduce(Moments.merged, map(Moments.of, parts(values, 30)), Moments())
    assert moments.count == values.size
    assert math.sqrt(moments.squares / moments.count) == pytest.approx(values.astype(float).std(), rel=1e-12)
