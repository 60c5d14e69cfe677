"""Append-only files of facts: one JSON object a line, written by one process and read by any number while it grows.

Promises that a reader never sees half a line, that a line torn by a crash is skipped and never joined to the next
one, and that a number that is not finite survives (as the words "nan", "inf", "-inf", which `float()` reads back).
Does not know what the facts mean. Each line holds `t` (unix seconds) and `event` (its kind): phase, model,
sharding, data, step, eval, sample, checkpoint, warning, result, published.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import IO, Any

from gemma_ft.redaction import redact

Fact = dict[str, Any]


class FactWriter:
    """Appends facts to a file, a line at a time; every line is flushed to the system, `sync` also to the disk.

    A `secret` (the Hub token) is never written, even if a message holds it.
    """

    def __init__(self, path: Path, *, secret: str | None = None) -> None:
        self._secret = secret
        self._file: IO[bytes] = path.open("ab")
        if self._file.tell() and not _ends_with_newline(path):
            self._file.write(b"\n")

    def append(self, event: str, *, sync: bool = False, **fields: Any) -> None:
        """Write one fact; `sync=True` returns only once it is on the disk."""
        fact = {"t": round(time.time(), 3), "event": event, **_storable(fields)}
        line = json.dumps(fact, ensure_ascii=False, separators=(",", ":"))
        self._file.write(redact(line, self._secret).encode() + b"\n")
        self._file.flush()
        if sync:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; the facts stay."""
        self._file.close()


def read_facts(path: Path, offset: int = 0) -> tuple[list[Fact], int]:
    """Return the whole lines from byte `offset` on, and the offset to read from next time.

    A last line that is still being written waits for the next call. A line that is no JSON object is passed over.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read()
    except FileNotFoundError:
        return [], offset
    whole = chunk[: chunk.rfind(b"\n") + 1]
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


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
