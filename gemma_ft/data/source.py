"""What every source of data gives: rows that can be read again and again.

A row is a plain dictionary, or a `BadRow` for a place in the source that holds none (a broken line); so one bad line
costs one row and not the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from gemma_ft.data.problems import BadRow

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = Iterator[Row | BadRow]

SAMPLE_ROWS = 1000
"""How many rows of a data set that is not on this machine are looked at before a start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One split of one data set.

    `read()` starts again at the first row each time. `notes` are remarks for the person (how it was read). `total` is
    the number of rows where it is known without reading. `complete` is false when `read` gives only the first rows.
    """

    name: str
    read: Callable[[], Rows]
    notes: tuple[str, ...] = ()
    total: int | None = None
    complete: bool = True


def plain_row(row: Row) -> dict[str, str]:
    """Return a row as it came, each column as text: text as it is, everything else as JSON."""
    return {
        str(name): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        for name, value in row.items()
    }
