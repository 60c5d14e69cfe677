"""The sign of life of a run's supervisor: a time of `monitor.identity.uptime`, written over the last one in the file
that the supervisor keeps locked.

Promises that beating needs no room on the disk, and that neither a clock that is set nor a machine that slept makes a
supervisor look hung. Does not decide what becomes of the run.
"""

from __future__ import annotations

import os

from gemma_ft.monitor.identity import is_halted, this_boot, uptime
from gemma_ft.rundir import ProcessId, RunDir

HALTED_SECONDS = 3.0
"""A supervisor that a signal has stopped is given up after this time; it does not go on by itself."""
HUNG_SECONDS = 120.0
"""One that runs but does not beat is given up after this time: a machine that swaps can be very slow."""


def beat(file: int) -> None:
    """Write the time into the supervisor's open lock file."""
    os.pwrite(file, b"%20.3f\n" % uptime(), 0)


def silent_seconds(run: RunDir, supervisor: ProcessId | None) -> float:
    """Return how long a supervisor has not beaten; for ever if it belongs to an earlier life of the machine."""
    if supervisor is None or supervisor.boot != this_boot():
        return float("inf")
    try:
        return max(0.0, uptime() - float(run.supervisor_lock.read_text(encoding="ascii")))
    except (OSError, ValueError):
        return float("inf")


def is_hung(run: RunDir, supervisor: ProcessId) -> bool:
    """Tell whether a supervisor that is there is of no use any more."""
    silent = silent_seconds(run, supervisor)
    return silent > HUNG_SECONDS or (silent > HALTED_SECONDS and is_halted(supervisor))
