"""Rows of numbers, kept by column: eight bytes a number, and any stretch of a column without copying the rest.

Promises that a column appears with the first row that has it, and that a value which a row lacks, or which is no
number, is NaN. The words "nan", "inf" and "-inf" are read as the numbers they stand for. Not safe against threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
MOST_COLUMNS = 96
SMALLEST = 256


class Columns:
    """A table that only grows, or loses its newest rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._columns: dict[str, Numbers] = {}

    def names(self) -> list[str]:
        """Return the names of the columns, in the order in which they appeared."""
        return list(self._columns)

    def extend(self, columns: Mapping[str, Numbers], rows: int) -> None:
        """Append so many rows that are columns already."""
        end = self.rows + rows
        for name in columns:
            if name not in self._columns and len(self._columns) < MOST_COLUMNS:
                self._columns[name] = np.full(max(end, SMALLEST), np.nan)
        for name, column in self._columns.items():
            if end > len(column):
                larger = np.full(max(end, 2 * len(column)), np.nan)
                larger[: self.rows] = column[: self.rows]
                self._columns[name] = column = larger
            column[self.rows : end] = columns.get(name, np.nan)
        self.rows = end

    def keep(self, rows: int) -> None:
        """Forget all rows but the first so many."""
        self.rows = min(self.rows, rows)

    def column(self, name: str, begin: int = 0, end: int | None = None) -> Numbers:
        """Return a stretch of a column, to be read and not kept; NaN throughout when there is no such column."""
        end = self.rows if end is None else min(end, self.rows)
        begin = min(max(begin, 0), end)
        if name not in self._columns:
            return np.full(end - begin, np.nan)
        return self._columns[name][begin:end]

    def last(self, name: str) -> float | None:
        """Return the newest value of a column; `None` when it is NaN or missing."""
        value = float(self._columns[name][self.rows - 1]) if self.rows and name in self._columns else math.nan
        return None if math.isnan(value) else value

    def bytes(self) -> int:
        """Return the memory that the columns take."""
        return sum(column.nbytes for column in self._columns.values())


def by_column(rows: Sequence[Mapping[str, Any]], *, leave_out: frozenset[str] = frozenset()) -> dict[str, Numbers]:
    """Return rows as columns, without the fields that are left out."""
    names = list(rows[0])
    columns: list[Sequence[Any]] = []
    if len(names) > 1 and {*map(len, rows)} == {len(names)}:
        with suppress(KeyError):  # Not all rows have the same fields.
            columns = list(zip(*map(itemgetter(*names), rows), strict=True))
    if not columns:
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = [[row.get(name) for row in rows] for name in names]
    return {name: numbers(column) for name, column in zip(names, columns, strict=True) if name not in leave_out}


def numbers(values: Sequence[Any]) -> Numbers:
    """Return values as numbers; what is none becomes NaN."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return math.nan
