"""Reading a log that is being written: only what is new, and never more than a page needs.

Promises whole characters, and a note where older text was left out. The file itself is never changed.
"""

from __future__ import annotations

from pathlib import Path

LIMIT_BYTES = 128_000


def read_log(path: Path, offset: int = 0, *, limit: int = LIMIT_BYTES) -> tuple[str, int]:
    """Return the text from byte `offset` on, at most its last `limit` bytes, and the offset to read from next.

    A last line without its end waits for the next call, unless it alone fills the limit.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = max(offset, size - limit)
            file.seek(begin)
            chunk = file.read(size - begin)
    except FileNotFoundError:
        return "", offset
    whole = chunk[: chunk.rfind(b"\n") + 1] or (chunk if len(chunk) >= limit else b"")
    if not whole:
        return "", offset
    text = whole.decode("utf-8", "replace")
    note = "... (older lines are in the file)\n" if begin > offset else ""
    return note + (text.partition("\n")[2] if note else text), begin + len(whole)
