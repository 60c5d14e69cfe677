"""Deleting a run, or its checkpoints, when somebody asks for it.

Promises that a run which is going on, waits in line, or is in use is never touched; that a deletion which is cut off
leaves no half run behind (the folder is renamed first, and `sweep` removes the rest); and that nothing outside the
run's own folder is removed: symbolic links are not followed. Asks nobody for confirmation: page and terminal do.
"""

from __future__ import annotations

import errno
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gemma_ft.errors import DiskError, RunBusy
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.disk import folder_size, run_size
from gemma_ft.rundir import ACTIVE, RunDir, list_runs

DELETED = ".deleted-"
"""How the name of a folder begins that is being removed; `list_runs` and `open_run` do not see it."""
WRITING = ".writing"
"""Where the trainer writes what is not whole yet; in a run that has ended it is a left-over."""
LOCK_SECONDS = 60.0
LAST_WORDS_SECONDS = 5.0


def delete_run(manager: JobManager, run_id: str, *, in_use: Collection[str] = ()) -> int:
    """Remove a run with everything in it; return the bytes of its files.

    `in_use` are the runs that somebody reads at the moment (a model that is loaded). Raises `RunNotFound`, `RunBusy`,
    and `DiskError` when the system does not let it go.
    """
    with _idle(manager, run_id, in_use) as run:
        size = run_size(run).total
        aside = _set_aside(run.path, run.path.parent / f"{DELETED}{run_id}-{secrets.token_hex(2)}")
    _remove(aside)
    return size


def delete_checkpoints(manager: JobManager, run_id: str, *, in_use: Collection[str] = ()) -> int:
    """Remove a run's checkpoints and keep all the rest; return the bytes of their files. A run that is resumed after
    that begins anew.

    Raises as `delete_run` does.
    """
    with _idle(manager, run_id, in_use) as run:
        found = [folder for folder in (run.checkpoints, run.path / WRITING) if folder.exists()]
        size = sum(folder_size(folder) for folder in found)
        aside = [_set_aside(folder, run.path / f"{DELETED}{secrets.token_hex(4)}") for folder in found]
    for folder in aside:
        _remove(folder)
    return size


def sweep(runs: Path) -> int:
    """Remove what deletions left behind that were cut off; return how many folders there were."""
    places = [runs, *(run.path for run in list_runs(runs))] if runs.is_dir() else []
    left = [folder for place in places for folder in place.glob(f"{DELETED}*")]
    for folder in left:
        _remove(folder)
    return len(left)


@contextmanager
def _idle(manager: JobManager, run_id: str, in_use: Collection[str]) -> Iterator[RunDir]:
    """Give a run that nobody uses; meanwhile nobody can start or resume one. Raises `RunNotFound`, `RunBusy`."""
    run = manager.open(run_id)
    try:
        with FileLock(manager.settings.home / "start.lock", timeout=LOCK_SECONDS):
            if (status := manager.state(run).status) in ACTIVE:
                raise RunBusy(f"The run {run_id} is {status}.", "Stop it first, or wait for its end.")
            if run_id in in_use:
                raise RunBusy(f"The run {run_id} is in use.", "Choose another run in the Playground first.")
            yield run
    except Timeout as exc:
        raise RunBusy("A run is being started, and that takes long.", "Try again when it has started.") from exc


def _set_aside(folder: Path, aside: Path) -> Path:
    """Rename a folder, so that it is gone at once and as a whole. Raises `DiskError` for a link, which stays."""
    if folder.is_symlink():
        raise DiskError(f"{folder} is a link to another place.", "Remove it and what it leads to by hand.")
    try:
        return folder.rename(aside)
    except OSError as exc:
        raise DiskError(f"{folder} cannot be removed: {exc.strerror}.", "Check whose folder it is.") from exc


def _remove(folder: Path) -> None:
    """Remove a folder that was set aside. Raises `DiskError` when something of it cannot be removed."""
    deadline = time.monotonic() + LAST_WORDS_SECONDS
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:  # Somebody else sweeps, too.
            continue
        except OSError as exc:
            # A supervisor that has written the last state may still write its last words into the folder.
            if exc.errno != errno.ENOTEMPTY or time.monotonic() > deadline:
                raise DiskError(f"{folder} cannot be removed: {exc.strerror}.", "Remove it by hand.") from exc
            time.sleep(0.05)
