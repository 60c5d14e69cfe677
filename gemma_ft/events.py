"""Append-only files of facts: one JSON object a line, written by one process and read by any number while it grows.

Promises that a reader never sees half a line, that a line torn by a crash or a full disk is skipped and never joined to
the next one, and that a number that is not finite survives (as the words "nan", "inf", "-inf", which `float()` reads
back). While the disk is full, lines wait in memory and follow in order once there is room.
Does not know what the facts mean. Each line holds `t` (unix seconds) and `event` (its kind): phase, model, sharding,
data, step, eval, sample, checkpoint, warning, result, published.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gemma_ft.full_disk import is_full_disk
from gemma_ft.redaction import redact

Fact = dict[str, Any]
HELD_BYTES = 16_000_000
"""How much waits for room on the disk: about 50,000 steps."""


class FactWriter:
    """Appends facts to a file, a line at a time; every line goes to the system at once, with `sync` also to the disk.

    A secret (the Hub token, an address for notices) is never written, even if a message holds it. Up to `held_bytes`
    wait while the disk is full; beyond that the oldest lines are dropped, and a warning in the file says how many.
    """

    def __init__(self, path: Path, *, secrets: Sequence[str | None] = (), held_bytes: int = HELD_BYTES) -> None:
        self._path, self._secrets, self._most = path, secrets, held_bytes
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._dropped = 0
        self._file: int | None = None
        self._torn = False
        self.write_held()

    def append(self, event: str, *, sync: bool = False, **fields: Any) -> None:
        """Write one fact; `sync=True` returns only once it is on the disk, or waits for room there."""
        self._hold(_line(event, fields, self._secrets))
        if self.write_held() and sync and self._file is not None:
            try:
                os.fsync(self._file)
            except OSError as exc:
                if not is_full_disk(exc):
                    raise

    def write_held(self) -> bool:
        """Write what waits for room, as far as there is any; return whether nothing waits any more."""
        try:
            if self._file is None:
                self._open()
            if self._dropped and self._most:
                said = f"The disk was full: {self._dropped:,} facts before this one are missing."
                self._write(_line("warning", {"message": said}, ()))
            self._dropped = 0
            while self._held:
                self._write(self._held[0])
                self._held_bytes -= len(self._held.popleft())
        except OSError as exc:
            if not is_full_disk(exc):
                raise
            self._drop()
        return not self._held

    def close(self) -> None:
        """Close the file; the facts stay."""
        self.write_held()
        if self._file is not None:
            with suppress(OSError):  # Some file systems only say here that they were full.
                os.close(self._file)
            self._file = None

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._torn = not _ends_whole(self._path)

    def _hold(self, line: bytes) -> None:
        self._held.append(line)
        self._held_bytes += len(line)

    def _drop(self) -> None:
        """Forget the oldest lines, if more wait than may."""
        while self._held and self._held_bytes > self._most:
            self._held_bytes -= len(self._held.popleft())
            self._dropped += 1

    def _write(self, line: bytes) -> None:
        """Write a line in one piece; what is torn on the way is closed by the next attempt, which begins anew."""
        assert self._file is not None
        whole = b"\n" + line if self._torn else line
        rest = memoryview(whole)
        while rest:
            written = os.write(self._file, rest)
            rest = rest[written:]
            self._torn = bool(rest) and (whole[: len(whole) - len(rest)] != b"\n")


def read_facts(path: Path, offset: int = 0, *, most: int = -1) -> tuple[list[Fact], int]:
    """Return the whole lines from byte `offset` on, and the offset to read from next time.

    With `most`, at most so many bytes are read, and a line that is longer is passed over. A last line that is still
    being written waits for the next call. A line that is no JSON object is passed over.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(most)
    except FileNotFoundError:
        return [], offset
    whole = chunk[: chunk.rfind(b"\n") + 1] or (chunk if len(chunk) == most else b"")
    facts = [fact for line in whole.splitlines() if (fact := _parse(line)) is not None]
    return facts, offset + len(whole)


def _parse(line: bytes) -> Fact | None:
    try:
        fact = json.loads(line)
    except ValueError:
        return None
    return fact if isinstance(fact, dict) else None


def _storable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _storable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(inner) for inner in value]
    return value


def _line(event: str, fields: Fact, secrets: Sequence[str | None]) -> bytes:
    fact = {"t": round(time.time(), 3), "event": event, **_storable(fields)}
    text = json.dumps(fact, ensure_ascii=False, separators=(",", ":"))
    return redact(text, *secrets).encode() + b"\n"


def _ends_whole(path: Path) -> bool:
    """Tell whether a file is empty or ends with a whole line."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
