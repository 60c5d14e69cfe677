"""The line of runs that wait for a device: one small file a run, named by its id, that holds its place.

Promises that the order is on the disk and survives everything, and that a file which is damaged or gone costs a run
its place and nothing else. Whether a run really waits is told by its state, not here. Starts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from gemma_ft.rundir import replace_file

LAST = float("inf")


@dataclass(frozen=True, slots=True)
class Queue:
    """The line in this folder. Every change is made under one lock."""

    folder: Path

    def order(self) -> list[str]:
        """Return the ids of the runs that wait, the next one first."""
        paths = [path for path in self.folder.iterdir() if not path.name.startswith(".")] if self._exists() else []
        return [path.name for path in sorted(paths, key=lambda path: (_place(path), path.name))]

    def join(self, run_id: str) -> None:
        """Put a run at the end; one that waits already keeps its place."""
        with self.lock():
            order = self.order()
            if run_id not in order:
                replace_file(self.folder / run_id, str(len(order) + 1))
                self._write([*order, run_id])

    def leave(self, run_id: str) -> None:
        """Take a run out; one that is not in it is left alone."""
        (self.folder / run_id).unlink(missing_ok=True)

    def move(self, run_id: str, by: int) -> None:
        """Move a run by so many places, to the front if negative, as far as there are places."""
        with self.lock():
            order = self.order()
            if run_id in order:
                here = order.index(run_id)
                order.insert(max(0, here + by), order.pop(here))
                self._write(order)

    def lock(self) -> FileLock:
        """Return the lock under which the line is changed, and under which the first one takes its devices."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def _exists(self) -> bool:
        return self.folder.is_dir()

    def _write(self, order: Sequence[str]) -> None:
        for place, run_id in enumerate(order, 1):
            if _place(self.folder / run_id) != place:
                replace_file(self.folder / run_id, str(place))


def _place(path: Path) -> float:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return LAST
