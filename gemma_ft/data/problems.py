"""What is wrong with data, in the terms of the person who must mend it.

Promises that a problem names the row (counted from 1), the column, the value and a remedy, and that a million problems
take no more memory than a few: all are counted, the first of each kind are kept whole.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

KEPT_PER_KIND = 20
SHOWN_CHARACTERS = 80
LISTED_NAMES = 12
NEAR = 0.6
"""How alike two names are, of 1, when one may be meant by the other."""
LONGEST_NAME = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong with the data or the configuration."""

    severity: Literal["error", "warning"]
    kind: str
    message: str
    fix: str
    row: int | None = None
    column: str | None = None


class BadRow(Exception):
    """A row that cannot be used: kind, column (if it is about one), what is wrong, and what to do."""

    def __init__(self, kind: str, column: str | None, message: str, fix: str) -> None:
        super().__init__(message)
        self.kind, self.column, self.message, self.fix = kind, column, message, fix

    def at(self, row: int) -> Problem:
        """Return it as the problem of the row with this number."""
        return Problem(
            severity="error", kind=self.kind, message=self.message, fix=self.fix, row=row, column=self.column
        )


@dataclass(slots=True)
class Tally:
    """Problems as they come in: counted by kind, the first `KEPT_PER_KIND` of each kept."""

    counts: Counter[str] = field(default_factory=Counter)
    kept: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it if it is among the first of its kind."""
        self.counts[problem.kind] += 1
        if self.counts[problem.kind] <= KEPT_PER_KIND:
            self.kept.append(problem)


def shown(value: Any) -> str:
    """Return a value as it is quoted in a message: as JSON, cut to a line, half characters as `\\ud83d`."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except RecursionError:
        return "[[[[ … nested deeply"
    text = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 2]} …"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def listed(names: Iterable[object]) -> str:
    """Return names as they are listed in a message: in quotes, the first few, each cut to a length, or `none`."""
    texts = [str(name) for name in islice(names, LISTED_NAMES + 1)]
    quoted = [repr(text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…") for text in texts[:LISTED_NAMES]]
    return ", ".join([*quoted, "…"] if len(texts) > LISTED_NAMES else quoted) or "none"


def nearest(name: str, names: Iterable[str]) -> str:
    """Return advice that names those that are like it, or else all of them."""
    names = list(dict.fromkeys(names))
    close = difflib.get_close_matches(name, names, n=3, cutoff=NEAR)
    return f"Did you mean {' or '.join(map(repr, close))}?" if close else f"It has: {listed(names)}."
