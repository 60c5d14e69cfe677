"""Keeping a secret out of what a child process prints.

Promises that text which goes through Python's standard streams (prints, logging, tracebacks) carries a mark instead of
the secret. What a library writes to the file descriptor itself is beyond its reach.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

MARK = "[secret]"


def redact(text: str, secret: str | None) -> str:
    """Return the text with the mark in place of the secret."""
    return text.replace(secret, MARK) if secret else text


def redact_output(secret: str | None) -> None:
    """Put a filter before this process's stdout and stderr; call it before logging is set up."""
    if secret:
        sys.stdout, sys.stderr = _Filter(sys.stdout, secret), _Filter(sys.stderr, secret)


class _Filter:
    """A text stream that hands everything on, the secret excepted."""

    def __init__(self, stream: TextIO, secret: str) -> None:
        self._stream, self._secret = stream, secret

    def write(self, text: str) -> int:
        self._stream.write(redact(text, self._secret))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
