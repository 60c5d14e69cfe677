"""Keeping secrets out of what a child process prints.

Promises that text which goes through Python's standard streams (prints, logging, tracebacks) carries a mark instead of
a secret. What a library writes to the file descriptor itself is beyond its reach.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO

MARK = "[secret]"


def redact(text: str, *secrets: str | None) -> str:
    """Return the text with the mark in place of each secret."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, MARK)
    return text


def redact_output(*secrets: str | None) -> None:
    """Put a filter before this process's stdout and stderr; call it before logging is set up."""
    if known := tuple(filter(None, secrets)):
        sys.stdout, sys.stderr = _Filter(sys.stdout, known), _Filter(sys.stderr, known)


class _Filter:
    """A text stream that hands everything on, the secrets excepted."""

    def __init__(self, stream: TextIO, secrets: tuple[str, ...]) -> None:
        self._stream, self._secrets = stream, secrets

    def write(self, text: str) -> int:
        self._stream.write(redact(text, *self._secrets))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
