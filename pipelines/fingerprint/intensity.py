"""Intensities inside the labelled foreground, of all its voxels, in memory that does not grow with their number.

`Moments` and `ValueCounts` of two parts can be merged; `statistics` sums up those of the whole.

Sources:
    Moments: Chan, Golub and LeVeque, 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAX_CELLS = 2**20
# Places of the finite float32 numbers.
_LEAST, _GREATEST = 0x00800000, 0xFF7FFFFF
_PERCENTILES = np.array([0.5, 50.0, 99.5])
STATISTICS = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5", "percentile_error")


@dataclass(frozen=True)
class Moments:
    """Number, mean, sum of squared distances from the mean, and range of some values; in float64."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    smallest: float = math.inf
    largest: float = -math.inf

    @classmethod
    def of(cls, values: np.ndarray) -> Moments:
        """Of values (n,)."""
        if not values.size:
            return cls()
        offsets = values.astype(np.float64)
        mean = float(offsets.mean())
        offsets -= mean
        offsets *= offsets
        return cls(values.size, mean, float(offsets.sum()), float(values.min()), float(values.max()))

    def merged(self, other: Moments) -> Moments:
        """Of both parts together. Rounding depends on the order, so merge in one that is fixed."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        apart = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + apart * other.count / count,
            squares=self.squares + other.squares + apart * apart * self.count * other.count / count,
            smallest=min(self.smallest, other.smallest),
            largest=max(self.largest, other.largest),
        )


@dataclass(frozen=True)
class ValueCounts:
    """How often each value occurs; of very many values, how often each narrow range of neighbours does.

    The float32 numbers have an order, so each has a number in it. A cell is that number without its lowest `shift`
    bits. The shift is the smallest with which all values seen fill `max_cells` cells or fewer: it is 0, and everything
    exact, until more different values have been seen. It follows from the values alone, so a merge gives the same
    counts however the values were parted and in whatever order the parts came.

    Attributes:
        cells: (n,) uint32, ascending.
        counts: (n,) int64, values in each cell.
        shift: bits that a cell leaves out, 12 at most of MAX_CELLS; its width is 2**(shift - 23) of its value or less.
        max_cells: the bound on n.
    """

    cells: np.ndarray
    counts: np.ndarray
    shift: int = 0
    max_cells: int = MAX_CELLS

    @classmethod
    def none(cls, max_cells: int = MAX_CELLS) -> ValueCounts:
        """Of no values."""
        return cls(np.zeros(0, np.uint32), np.zeros(0, np.int64), 0, max_cells)

    @classmethod
    def of(cls, values: np.ndarray, max_cells: int = MAX_CELLS) -> ValueCounts:
        """Of finite float32 values (n,)."""
        numbers = np.sort(_numbers(values))
        starts = _starts(numbers)
        counts = np.diff(starts, append=numbers.size)
        return cls(numbers[starts], counts.astype(np.int64), 0, max_cells)._narrowed()

    def merged(self, other: ValueCounts) -> ValueCounts:
        """Of both parts together; the order does not matter."""
        assert self.max_cells == other.max_cells
        shift = max(self.shift, other.shift)
        cells = np.concatenate([part.cells >> np.uint32(shift - part.shift) for part in (self, other)])
        # Both parts are sorted already: a stable sort only has to interleave them.
        order = np.argsort(cells, kind="stable")
        counts = np.concatenate([self.counts, other.counts])[order]
        return _summed(cells[order], counts, shift, self.max_cells)._narrowed()

    def _narrowed(self) -> ValueCounts:
        narrow = self
        while narrow.cells.size > self.max_cells:
            narrow = _summed(narrow.cells >> np.uint32(1), narrow.counts, narrow.shift + 1, self.max_cells)
        return narrow

    def ranges(self, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Between which two numbers the values of these ranks lie; 0 is the smallest value's rank.

        Returns:
            The lower and the upper ends, float64; equal where the counts are exact.
        """
        cells = self.cells[np.searchsorted(np.cumsum(self.counts), ranks, side="right")].astype(np.int64)
        lowest = cells << self.shift
        return _values(lowest), _values(lowest + (1 << self.shift) - 1)


def statistics(moments: Moments, values: ValueCounts) -> dict[str, float]:
    """Summary of the intensities of one channel; NaN for every key of `STATISTICS` where there is no value.

    Percentiles are interpolated as `numpy.percentile` does by default. `percentile_error` is 0 where they are exact,
    else the largest difference that any of them can have from its exact value, in the unit of the intensities.
    """
    if not moments.count:
        return dict.fromkeys(STATISTICS, math.nan)
    positions = (moments.count - 1) * (_PERCENTILES / 100)
    ranks = np.floor(positions).astype(np.int64)
    ends = np.stack([values.ranges(np.minimum(ranks + step, moments.count - 1)) for step in (0, 1)])
    ends = ends.clip(moments.smallest, moments.largest)  # (this rank and the next, lower and upper end, percentile)
    here, following = ends.mean(axis=1)
    low, median, high = (here + (following - here) * (positions - ranks)).tolist()
    return {
        "mean": moments.mean,
        "median": median,
        "std": math.sqrt(moments.squares / moments.count),
        "min": moments.smallest,
        "max": moments.largest,
        "percentile_00_5": low,
        "percentile_99_5": high,
        "percentile_error": float((ends[:, 1] - ends[:, 0]).max() / 2),
    }


def _summed(cells: np.ndarray, counts: np.ndarray, shift: int, max_cells: int) -> ValueCounts:
    """Sum the counts of equal neighbours."""
    starts = _starts(cells)
    summed = np.add.reduceat(counts, starts) if starts.size else counts
    return ValueCounts(cells[starts], summed, shift, max_cells)


def _starts(ascending: np.ndarray) -> np.ndarray:
    is_first = np.ones(ascending.size, bool)
    is_first[1:] = ascending[1:] != ascending[:-1]
    return np.flatnonzero(is_first)


def _numbers(values: np.ndarray) -> np.ndarray:
    """The place of each float32 in the order of all: bits of a float ascend with its size, but for the sign's."""
    assert values.dtype == np.float32
    bits = values.view(np.uint32)
    return bits ^ ((bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31))


def _values(numbers: np.ndarray) -> np.ndarray:
    """Inverse of `_numbers`, in float64; numbers beyond the finite ones give the nearest of those."""
    places = numbers.clip(_LEAST, _GREATEST).astype(np.uint32)
    is_positive = places >> np.uint32(31) == 1
    bits = np.where(is_positive, places ^ np.uint32(1 << 31), ~places)
    return bits.view(np.float32).astype(np.float64)
