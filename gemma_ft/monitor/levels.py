"""Which lines of a log are an error or a warning: by the form in which programs say so, not by the word alone.

Promises that "no error", "0 errors" or a loss called `error_rate` are no errors, and that a traceback is one error
however long it is. Pure, except that a `Levels` remembers whether it is inside a traceback.
"""

from __future__ import annotations

import re
from typing import Literal

Level = Literal["info", "warning", "error"]

RECORD = re.compile(r"(?:^|[\s\[|(])(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)(?=[\s\]|:,)]|$)")
"""The level as logging libraries write it, in capitals, near the beginning of a line."""
HEAD = 90
LEVELS: dict[str, Level] = {
    "WARNING": "warning",
    "WARN": "warning",
    "ERROR": "error",
    "CRITICAL": "error",
    "FATAL": "error",
}
PREFIX = r"(?:\[\w+\]:\s*)?"
TRACEBACK = re.compile(rf"^{PREFIX}\s*Traceback \(most recent call last\):")
INSIDE = re.compile(rf"^{PREFIX}(?:\s|$|[+|])")
CHAINED = re.compile(rf"^{PREFIX}(?:During handling of|The above exception)")
RAISED = re.compile(rf"^{PREFIX}(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Failure)(?::|$)")
CRASHED = re.compile(r"^(?:Segmentation fault|Killed$|Fatal Python error|terminate called|Aborted|CUDA error: )")
WARNED = re.compile(r"(?:^|[\s:])(?:\w+\.)*\w*Warning: ")
DENIED = re.compile(r"\b(?:no|0|zero|without)\s+(?:errors?|warnings?)\b", re.IGNORECASE)


MARKS = (
    *(
        b"WARN",
        b"ERROR",
        b"CRITICAL",
        b"FATAL",
        b"Traceback",
        b"Error",
        b"Exception",
        b"Interrupt",
        b"Exit",
        b"Failure",
    ),
    *(b"Segmentation fault", b"Killed", b"Fatal Python error", b"terminate called", b"Aborted", b"Warning: "),
)
"""A line that has none of these is no error and no warning, unless it stands in a traceback."""


class Levels:
    """Tells the level of line after line."""

    def __init__(self) -> None:
        self._inside = False
        self._told = False  # an error was told just before, so that a traceback belongs to it

    @property
    def is_waiting(self) -> bool:
        """Whether what the next line is depends on the lines before it."""
        return self._inside or self._told

    def of(self, line: str) -> tuple[Level, bool]:
        """Return the level of the next line, and whether it begins something to be counted."""
        told, self._told = self._told, False
        if self._inside and INSIDE.match(line):
            return "error", False
        if TRACEBACK.match(line):
            counts = not (told or self._inside)
            self._inside = True
            return "error", counts
        record = RECORD.search(line[:HEAD])
        if self._inside:
            self._inside = False
            if not record:  # the exception itself, which ends the traceback; another one may be chained to it
                self._told = True
                return "error", False
        if told and (not line.strip() or CHAINED.match(line)):
            self._told = True
            return ("error" if line.strip() else "info"), False
        if record and not DENIED.search(line[:HEAD]):
            level = LEVELS.get(record[1], "info")
            self._told = level == "error"
            return level, level != "info"
        if RAISED.match(line) or CRASHED.match(line):
            return "error", True
        if WARNED.search(line[:300]) and not record:
            return "warning", True
        return "info", False
