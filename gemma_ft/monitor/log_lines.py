"""A log as lines for people: read on by offset, its last lines kept, errors and warnings of all of it counted.

Promises plain text whatever was printed: colours and other control codes are left out, bytes that are no UTF-8 become
replacement characters, a very long line is cut with a note, and a progress bar that was drawn over itself is the line
it came to. Sections begin where the trainer entered a phase. The file itself is never changed.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gemma_ft.monitor.levels import MARKS, Level, Levels

KEPT_LINES = 2000
LONGEST_LINE = 2000
PIECE = 256_000
LONGEST_BYTES = 4 * LONGEST_LINE
CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_]?)|[\x00-\x08\x0b-\x1f\x7f]")
NOT_PLAIN = (b"\r", b"\x1b")
PHASE = re.compile(r"^\d\d:\d\d:\d\d INFO (.+)$")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line, counted from 0, with its level."""

    number: int
    text: str
    level: Level


class LogLines:
    """The log of one run. Hold `lock` while reading more than one thing."""

    def __init__(self, path: Path, *, kept: int = KEPT_LINES) -> None:
        self.lock = threading.RLock()
        self._kept: deque[tuple[bytes, Level, bool]] = deque(maxlen=kept)
        self.count = 0
        self.errors = 0
        self.warnings = 0
        self.open = ""
        self.sections: list[tuple[int, str]] = []
        self.generation = 0
        self.behind = 0
        self._path = path
        self._offset = 0
        self._rest = b""
        self._cut = False
        self._levels = Levels()

    def size(self) -> int:
        """Return the size of the file now, in bytes."""
        try:
            return self._path.stat().st_size if self._path.is_file() else 0
        except OSError:
            return 0

    def read_to(self, end: int, phases: Set[str], seconds: float | None = None) -> None:
        """Read on as far as byte `end`; with `seconds`, stop about then. `phases` are the names of the run's phases."""
        until = None if seconds is None else time.monotonic() + seconds
        titles = {phase.capitalize() for phase in phases}
        with self.lock:
            if end < self._offset:
                self._begin_anew()
            while self._offset < end:
                with self._path.open("rb") as file:
                    file.seek(self._offset)
                    piece = file.read(min(PIECE, end - self._offset))
                if not piece:
                    break
                self._offset += len(piece)
                self._take(piece, titles)
                if until is not None and time.monotonic() >= until:
                    break
            self.behind = max(0, end - self._offset)

    def since(self, number: int) -> list[LogLine]:
        """Return the lines from this number on, as far as they are kept."""
        new = min(max(0, self.count - number), len(self._kept))
        first = self.count - new
        return [
            LogLine(first + place, readable(raw, cut=cut), level)
            for place, (raw, level, cut) in enumerate(islice(self._kept, len(self._kept) - new, None))
        ]

    def _begin_anew(self) -> None:
        self._kept.clear()
        self.sections.clear()
        self.count = self.errors = self.warnings = self._offset = 0
        self._rest, self._cut, self.open, self._levels = b"", False, "", Levels()
        self.generation += 1

    def _take(self, piece: bytes, titles: Set[str]) -> None:
        whole, newline, rest = (self._rest + piece).rpartition(b"\n")
        if newline:
            self._append(whole.split(b"\n"), whole, titles)
        # Of an unfinished line only what is now on the screen matters: what follows its last carriage return.
        self._rest = rest[rest.rstrip(b"\r").rfind(b"\r") + 1 :]
        if len(self._rest) > LONGEST_BYTES:
            self._rest, self._cut = self._rest[:LONGEST_BYTES], True
        self.open = readable(self._rest)

    def _append(self, lines: list[bytes], whole: bytes, titles: Set[str]) -> None:
        """Append lines, which are `whole` when joined. Most logs have nothing to count; they are not looked at."""
        marks = (*MARKS, *NOT_PLAIN, *(f"INFO {title}".encode() for title in titles))
        marks = tuple(mark for mark in marks if mark in whole)
        for raw in lines:
            level: Level = "info"
            if self._cut or self._levels.is_waiting or any(mark in raw for mark in marks):
                level = self._look(raw, titles)
            self._kept.append((drawn_last(raw)[: LONGEST_BYTES + 1], level, self._cut))
            self._cut = False
            self.count += 1

    def _look(self, raw: bytes, titles: Set[str]) -> Level:
        text = readable(raw)
        level, counts = self._levels.of(text)
        self.errors += counts and level == "error"
        self.warnings += counts and level == "warning"
        if (phase := PHASE.match(text)) and phase[1] in titles:
            self.sections.append((self.count, phase[1]))
        return level


def readable(raw: bytes, *, cut: bool = False) -> str:
    """Return a line as a terminal would leave it, as plain text."""
    raw = drawn_last(raw)
    text = CONTROL.sub("", raw[: LONGEST_BYTES + 1].decode("utf-8", "replace"))
    if cut or len(raw) > LONGEST_BYTES or len(text) > LONGEST_LINE:
        return f"{text[:LONGEST_LINE]} ... (cut; the whole line is in the file)"
    return text


def drawn_last(raw: bytes) -> bytes:
    """Return what a line that was drawn over itself came to."""
    if b"\r" not in raw:
        return raw
    raw = raw.rstrip(b"\r")
    return raw[raw.rfind(b"\r") + 1 :]
