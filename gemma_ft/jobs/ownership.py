"""Which page controls a home: the first one that holds its lock; any other only watches.

Promises that the lock is the kernel's (`flock`): it is free as soon as its holder is gone, whatever became of it, and
the next page takes over by itself. The command line needs no lock: the person at it knows what is going on. Does not
decide what a page that only watches may do.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path

from gemma_ft.errors import RunBusy


class Ownership:
    """This process's claim to a home; `file` is the lock, which tells the others who holds it."""

    def __init__(self, file: Path, name: str) -> None:
        self._path = file
        self._name = name
        self._file: int | None = None
        self._taking = threading.Lock()

    def take(self) -> bool:
        """Take the home if nobody has it; return whether this process has it now. Any thread may ask."""
        with self._taking:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(file)
                    return False
                self._file = file
                with suppress(OSError):  # On a full disk others are not told who it is.
                    os.ftruncate(file, 0)
                    os.pwrite(file, f"{self._name}, process {os.getpid()}".encode(), 0)
            return True

    def holder(self) -> str:
        """Return who has the home, in words."""
        try:
            return self._path.read_text(encoding="utf-8") or "another page"
        except OSError:
            return "another page"

    def require(self) -> None:
        """Raise `RunBusy` unless this process has the home, or can take it now."""
        if not self.take():
            raise RunBusy(
                f"This page only watches: the runs of this home are controlled by {self.holder()}.",
                "Use that page, or end it; this one takes over by itself.",
                title="Another page is in control",
            )

    def release(self) -> None:
        """Give the home back; the end of the process does so too."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
