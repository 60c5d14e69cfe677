"""A folder of links to the runs' TensorBoard event files, so that TensorBoard sees nothing else of the runs.

Promises that a link leads only to a plain file that truly lies in its run's `tensorboard` folder: whatever is reached
through a symbolic link, from inside a run or in place of one, is left out. TensorBoard walks every folder below the one
it is given; here it finds one folder per run, named by its id, and no checkpoints. Reads no event file.
"""

from __future__ import annotations

import re
from pathlib import Path

from gemma_ft.rundir import list_runs

RUN_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII)


class EventFiles:
    """The links for all runs of one installation, in a folder that belongs to nobody else."""

    def __init__(self, runs: Path, folder: Path) -> None:
        self.folder = folder
        self._runs = runs
        self._linked: set[tuple[str, str]] = set()

    def renew(self) -> None:
        """Make the links agree with the runs as they are now. Raises `OSError` when the folder cannot be written."""
        found = event_files(self._runs)
        for run_id, name in self._linked - found.keys():
            (self.folder / run_id / name).unlink(missing_ok=True)
        for run_id in {run_id for run_id, _ in self._linked} - {run_id for run_id, _ in found}:
            (self.folder / run_id).rmdir()
        for run_id, name in found.keys() - self._linked:
            link = self.folder / run_id / name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(found[run_id, name])
        self._linked = set(found)


def event_files(runs: Path) -> dict[tuple[str, str], Path]:
    """Return the event files of all runs by run id and file name; folders that cannot be read count as empty."""
    root = runs.resolve()
    found = {}
    for run in list_runs(root):
        if RUN_ID.fullmatch(run.run_id) and not run.path.is_symlink():
            for file in _plain_event_files(run.tensorboard):
                found[run.run_id, file.name] = file
    return found


def _plain_event_files(folder: Path) -> list[Path]:
    if folder.is_symlink():
        return []
    try:
        files = list(folder.iterdir())
    except OSError:
        return []
    return [file for file in files if "tfevents" in file.name and not file.is_symlink() and file.is_file()]
