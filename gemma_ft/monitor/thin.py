"""Long curves with few points that look the same: of each stretch its lowest and its highest value, and its mean.

Promises that no spike is lost, that the points are measured ones at their own places, in order, and that the last one
is among them. Values that are not finite are passed over. Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemma_ft.monitor.columns import Numbers

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Grid:
    """A stretch of so many rows in equal buckets of `width` rows (the last may be shorter).

    `rows` are those that stand for the buckets: the middle ones, but the very first and the very last row for the
    outer buckets, so that a curve reaches both ends.
    """

    length: int
    width: int
    rows: Rows

    @property
    def is_exact(self) -> bool:
        """Whether every row has a bucket of its own."""
        return self.width == 1


def grid(length: int, buckets: int) -> Grid:
    """Divide so many rows into at most so many buckets."""
    width = max(1, -(-length // buckets))
    begins = np.arange(0, length, width)
    rows = begins + (np.minimum(begins + width, length) - begins) // 2
    if length:
        rows[0], rows[-1] = 0, length - 1
    return Grid(length, width, rows)


def means(values: Numbers, over: Grid) -> Numbers:
    """Return the mean of each bucket; NaN for one without a finite value."""
    if over.is_exact:
        return np.where(np.isfinite(values), values, np.nan)
    table = _table(values, over)
    finite = np.isfinite(table)
    count = finite.sum(axis=1)
    with np.errstate(invalid="ignore"):
        found: Numbers = np.where(finite, table, 0.0).sum(axis=1) / np.where(count, count, np.nan)
    return found


def highest(values: Numbers, over: Grid) -> Numbers:
    """Return the highest finite value of each bucket; NaN for one without any."""
    table = _table(values, over)
    found: Numbers = np.where(np.isfinite(table), table, -np.inf).max(axis=1)
    return np.where(np.isfinite(found), found, np.nan)


def outline(values: Numbers, over: Grid) -> Rows:
    """Return the rows of the lowest and the highest value of each bucket, and the last row, in order."""
    table = _table(values, over)
    finite = np.isfinite(table)
    begins = np.arange(len(table)) * over.width
    low = begins + np.where(finite, table, np.inf).argmin(axis=1)
    high = begins + np.where(finite, table, -np.inf).argmax(axis=1)
    known = finite.any(axis=1)
    last = [over.length - 1] if over.length and np.isfinite(values[-1]) else []
    return np.unique(np.concatenate([low[known], high[known], np.array(last, dtype=np.int64)])).astype(np.int64)


def _table(values: Numbers, over: Grid) -> Numbers:
    padded = np.full(len(over.rows) * over.width, np.nan)
    padded[: len(values)] = values
    return padded.reshape(-1, over.width)


def plain(values: Numbers, digits: int = 5) -> list[float | None]:
    """Return numbers for JSON, rounded to significant digits; `None` for what is not finite."""
    return [float(f"{value:.{digits}g}") if -np.inf < value < np.inf else None for value in values.tolist()]
