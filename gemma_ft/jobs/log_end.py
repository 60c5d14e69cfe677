"""The end of a log: the line that says most, and the lines that a person would want to read.

Promises that progress bars, separators, the frames of a traceback and what launchers print around the failure of a
child never hide the reason: of a traceback its last exception counts. Reads the end of the file only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from gemma_ft.failures import shortened
from gemma_ft.redaction import redact

TAIL_BYTES = 65_536
LONGEST_LINE = 500
NEAREST_FRAMES = 12
"""How many frames of a thread are shown of a crash: its dump begins with the innermost one, and may go on for pages."""
TRACEBACK = "Traceback (most recent call last)"
FATAL = "Fatal Python error"
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
OURS = re.compile(r"\d\d:\d\d:\d\d [A-Z]+ ")
"""How a line of our own log begins."""
RANK = re.compile(r"^\[rank\d+\]:? ?")
NOISE = re.compile(
    r"[\W_]*"  # separators
    r"|.*\d+%\|.*|.*\d(it/s|s/it).*"  # progress bars
    r"|(Current thread|Thread) 0x.*|Extension modules: .*"  # what follows `Fatal Python error`
    r"|(The run has|The training failed|Failures:|Root Cause).*|.*ChildFailedError:?|\[\d+\]:|<NO_OTHER_FAILURES>"
    r"|(time|host|rank|exitcode|error_file|traceback)\s+: .*"  # the launcher's table
    r"|[EWI]\d{4} .*(torch/distributed|elastic).*|.*FAILED"
)


def last_line(log: Path) -> str:
    """Return the last line of a log that says why it ended, or else what it was doing; empty when there is none."""
    said = list(_said(_tail(log)))
    return said[-1][:LONGEST_LINE] if said else ""


def log_tail(log: Path) -> str:
    """Return the last lines of a log, without its progress bars and what is far from a crash."""
    lines = (line.rpartition("\r")[2].rstrip() for line in _tail(log).split("\n"))
    bare = (line for line in lines if not re.search(r"\d+%\|", line))
    return shortened("\n".join(_near_the_crash(bare)).strip("\n"))


def _near_the_crash(lines: Iterable[str]) -> Iterator[str]:
    """Leave out what the interpreter dumps of a crash beyond the innermost frames of each thread."""
    crashed, frames = False, 0
    for line in lines:
        crashed = crashed or line.startswith(FATAL)
        frames = frames + 1 if line.startswith("  File ") else 0
        if not crashed or (frames <= NEAREST_FRAMES and not line.startswith("Extension modules: ")):
            yield line


def _tail(log: Path) -> str:
    """Return the end of a file as text, the Hub token taken out."""
    try:
        with log.open("rb") as file:
            if (size := log.stat().st_size) > TAIL_BYTES:
                file.seek(size - TAIL_BYTES)
                file.readline()  # The rest of a line, which may hold a part of a token.
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return redact(text, os.environ.get("HF_TOKEN"))


def _said(text: str) -> Iterator[str]:
    """Yield what a log says, a line each; a traceback says its exception."""
    frames = message = False
    for raw in text.replace("\r\n", "\n").split("\n"):
        line = RANK.sub("", raw.rpartition("\r")[2]).rstrip()
        words = OURS.sub("", line.strip(), count=1)
        if line.startswith(TRACEBACK):
            frames, message = True, False
        elif frames:
            if line and not line[0].isspace():
                frames, message = False, True
                if not NOISE.fullmatch(words):
                    yield words
        elif message and line and not OURS.match(line) and not line.startswith((*CHAINED, FATAL)):
            continue  # the rest of the exception's message
        else:
            message = False
            if words and not line.startswith((*CHAINED, "  File ")) and not NOISE.fullmatch(words):
                yield words
