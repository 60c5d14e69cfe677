"""What stands between a child process and its output: secrets are kept out of it, and a full disk cannot end a process.

Promises that text which goes through Python's standard streams (prints, logging, tracebacks) carries a mark instead of
a secret, and that what cannot be written because the disk is full is left out, with a line that says so once there is
room again. What a library writes to the file descriptor itself is beyond its reach.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from gemma_ft.full_disk import is_full_disk

MARK = "[secret]"
MISSING = "\n[Lines are missing here: the disk was full.]\n"


def redact(text: str, *secrets: str | None) -> str:
    """Return the text with the mark in place of each secret."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MARK)
    return text


def redact_output(*secrets: str | None) -> None:
    """Put a filter before this process's stdout and stderr; call it before logging is set up."""
    known = tuple(filter(None, secrets))
    sys.stdout, sys.stderr = _Filter(sys.stdout, known), _Filter(sys.stderr, known)


class _Filter:
    """A text stream that hands everything on, except secrets and what finds no room on the disk."""

    def __init__(self, stream: TextIO, secrets: tuple[str, ...]) -> None:
        self._stream, self._secrets = stream, secrets
        self._missing = False

    def write(self, text: str) -> int:
        try:
            if self._missing:
                self._stream.write(MISSING)
                self._missing = False
            self._stream.write(redact(text, *self._secrets))
        except OSError as exc:
            self._bear(exc)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as exc:
            self._bear(exc)

    def _bear(self, exc: OSError) -> None:
        if not is_full_disk(exc):
            raise exc
        self._missing = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
