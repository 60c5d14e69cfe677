"""A real file system of a few megabytes, in memory, that a test can fill to the last byte and empty again."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PIECE = 4096


@dataclass(frozen=True)
class SmallDisk:
    """The file system; everything that a test wants on it goes below `path`."""

    path: Path

    @property
    def free(self) -> int:
        """The bytes that are free."""
        return shutil.disk_usage(self.path).free

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Take all the room, but for about so many bytes."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while self.free > leave:
                    file.write(bytes(max(PIECE, min(1_000_000, self.free - leave))))
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def mounted(path: Path, size: int) -> Iterator[SmallDisk]:
    """Mount such a file system for as long as the block lasts; skip the test where that is not allowed."""
    path.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"no file system can be mounted here: {exc}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=30)
