"""What stands between a child process and its output: secrets are kept out of it, and a full disk cannot end a process.

Promises that text which goes through Python's standard streams (prints, logging, tracebacks) carries a mark instead of
the secret, and that what cannot be written because the disk is full is left out, with a line that says so once there is
room again. What a library writes to the file descriptor itself is beyond its reach.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

from gemma_ft.full_disk import is_full_disk

MARK = "[secret]"
MISSING = "\n[Lines are missing here: the disk was full.]\n"


def redact(text: str, secret: str | None) -> str:
    """Return the text with the mark in place of the secret."""
    return text.replace(secret, MARK) if secret else text


def redact_output(secret: str | None) -> None:
    """Put a filter before this process's stdout and stderr; call it before logging is set up."""
    sys.stdout, sys.stderr = _Filter(sys.stdout, secret), _Filter(sys.stderr, secret)


class _Filter:
    """A text stream that hands everything on, except the secret and what finds no room on the disk."""

    def __init__(self, stream: TextIO, secret: str | None) -> None:
        self._stream, self._secret = stream, secret
        self._missing = False

    def write(self, text: str) -> int:
        try:
            if self._missing:
                self._stream.write(MISSING)
                self._missing = False
            self._stream.write(redact(text, self._secret))
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
