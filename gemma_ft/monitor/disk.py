"""What the runs take on the disk, and how much room is left there.

Promises that a file counts once, however many names it has (a continued run shares a checkpoint with its parent), that
symbolic links are not followed, and that files which come and go meanwhile disturb nothing. Sizes are bytes as the disk
has them. Removes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gemma_ft.errors import DiskError
from gemma_ft.full_disk import free_bytes
from gemma_ft.rundir import ACTIVE, RunDir, Status, list_runs

BLOCK = 512
"""What the system counts a file's room in."""
FULL_BYTES = 4_000_000
"""With less than this, not even facts and states can be counted on to be written."""
LOW_BYTES = 1_000_000_000
NAMED_RUNS = 3
Fullness = Literal["roomy", "low", "full"]
Inodes = set[tuple[int, int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSize:
    """What one run takes: its checkpoints, its result, and all the rest (facts, log, what is being written)."""

    run_id: str
    status: Status
    checkpoints: int
    model: int
    rest: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.checkpoints + self.model + self.rest


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskUse:
    """The runs, newest first; what they take together, shared files once; and what is free on their disk."""

    runs: tuple[RunSize, ...]
    total: int
    free: int


def folder_size(folder: Path, seen: Inodes | None = None) -> int:
    """Return what a folder takes; files that are in `seen` are left out, and those that are found are added to it."""
    return sum(_sizes(folder, set() if seen is None else seen))


def run_size(run: RunDir, status: Status | None = None) -> RunSize:
    """Return what a run takes. `status` is the true one if it is known, else what its file says counts."""
    return _run_size(run, status or run.state().status, set())


def disk_use(runs: Path) -> DiskUse:
    """Return what all runs in a folder take."""
    seen: Inodes = set()
    found = list_runs(runs)
    total = sum(folder_size(run.path, seen) for run in found)
    return DiskUse(runs=tuple(run_size(run) for run in found), total=total, free=free_bytes(runs))


def how_full(path: Path) -> Fullness:
    """Tell whether the disk of a path is full, nearly full, or neither; asks the disk, so it is true at once."""
    free = free_bytes(path)
    return "full" if free < FULL_BYTES else "low" if free < LOW_BYTES else "roomy"


def disk_warning(path: Path) -> str:
    """Say that the disk of a path is full or nearly so, and what that means; nothing when there is room."""
    fullness, free = how_full(path), size_in_words(free_bytes(path))
    if fullness == "full":
        return (
            f"The disk is full ({free} free): what is shown here may be old. A training goes on, and waits where it "
            "has to save. Make room: delete checkpoints of old runs."
        )
    return f"The disk is nearly full: {free} free." if fullness == "low" else ""


def spare_checkpoints(runs: Path, *, apart_from: str | None = None) -> list[tuple[str, int]]:
    """Return the ended runs that have checkpoints, and what these take, the largest first.

    What a run shares with another is not given back by deleting one of them, so it is not counted.
    """
    ended = [run for run in list_runs(runs) if run.run_id != apart_from and run.state().status not in ACTIVE]
    found = [(run.run_id, sum(_sizes(run.checkpoints, set(), shared=False))) for run in ended]
    return sorted((each for each in found if each[1]), key=lambda each: each[1], reverse=True)


def saved(run: RunDir) -> tuple[int, int]:
    """Return the step of a run's last checkpoint, 0 without one, and how many checkpoints it has."""
    steps = [int(path.name.rpartition("-")[2]) for path in run.checkpoints.glob("checkpoint-[0-9]*") if path.is_dir()]
    return max(steps, default=0), len(steps)


def require_free(runs: Path, needed: int, *, apart_from: str | None = None) -> None:
    """Raise `DiskError` when the disk of the runs has less room than is needed; it names what could go.

    `apart_from` is the run that needs it: its own checkpoints are no help.
    """
    free = free_bytes(runs)
    if needed <= free:
        return
    spare = spare_checkpoints(runs, apart_from=apart_from)[:NAMED_RUNS]
    named = ", ".join(f"{run_id} ({size_in_words(size)})" for run_id, size in spare)
    could_go = (
        f"Checkpoints of old runs could go: {named} (`python -m gemma_ft delete RUN --checkpoints`)." if named else ""
    )
    raise DiskError(
        f"The run writes at least {size_in_words(needed)}, and {size_in_words(free)} are free.",
        f"Make room, keep fewer checkpoints, or train an adapter. {could_go}".strip(),
    )


def size_in_words(count: int) -> str:
    """Say a size in decimal units: 640 kB, 12.3 MB, 1.3 GB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            value = count / unit
            return f"{value:,.0f} {name}" if value >= 100 else f"{value:.1f} {name}"
    return f"{-(-count // 1000)} kB"


def _run_size(run: RunDir, status: Status, seen: Inodes) -> RunSize:
    """Count the result first: what it shared with a checkpoint would be kept by deleting the checkpoint."""
    model, checkpoints = folder_size(run.model, seen), folder_size(run.checkpoints, seen)
    rest = folder_size(run.path, seen)
    return RunSize(run_id=run.run_id, status=status, checkpoints=checkpoints, model=model, rest=rest)


def _sizes(folder: Path, seen: Inodes, *, shared: bool = True) -> Iterator[int]:
    """Yield the sizes of the files below a folder; without `shared` only of those that have no name elsewhere."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _sizes(Path(entry.path), seen, shared=shared)
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        known = (found.st_dev, found.st_ino) in seen
        seen.add((found.st_dev, found.st_ino))
        if not known and (shared or found.st_nlink == 1):
            yield found.st_blocks * BLOCK
