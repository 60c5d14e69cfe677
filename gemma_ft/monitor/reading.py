"""Reading on in a file of JSON lines that another process appends to: whole lines, each once, a piece at a time.

Promises that a last line without its end waits, that a line which is no JSON object is passed over, and that no call
reads more than `PIECE` bytes, so that a file of a million lines is read in many short calls. A line longer than that
is passed over, too. `events.read_facts` reads everything at once with the standard library; this is for the page, which
has many long files to follow, and it parses about five times faster.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from gemma_ft.events import Fact

PIECE = 500_000


class LineReader:
    """Remembers how far a file has been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.size = 0

    @property
    def behind(self) -> int:
        """The bytes that were there at the last call and are not read yet."""
        return max(0, self.size - self.offset)

    def read(self) -> list[Fact]:
        """Return the objects of the next piece; an empty list at the end of the file."""
        try:
            size = self.path.stat().st_size
            if size < self.offset:  # Another file has taken its place.
                self.offset = 0
            if size == self.offset:
                self.size = size
                return []
            with self.path.open("rb") as file:
                file.seek(self.offset)
                piece = file.read(min(PIECE, size - self.offset))
        except OSError:  # not there yet, or no file
            return []
        end = piece.rfind(b"\n") + 1
        self.size = size if end or len(piece) == PIECE else self.offset
        self.offset += end or (len(piece) if len(piece) == PIECE else 0)
        return parse(piece[:end])


def parse(lines: bytes) -> list[Fact]:
    """Return the JSON objects of whole lines."""
    try:
        facts = orjson.loads(b"[" + lines.rstrip(b"\n").replace(b"\n", b",") + b"]")
    except orjson.JSONDecodeError:
        facts = [_parse(line) for line in lines.splitlines()]
    return [fact for fact in facts if isinstance(fact, dict)]


def _parse(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
