"""Processes by identity, and ending a whole group of them.

Zombies count as dead. `signal_group` takes a bare number: call it only for a leader that is known to live or not yet
reaped.
"""

from __future__ import annotations

import os
import signal

import psutil

from gemma_ft.rundir import ProcessId

CREATED_TOLERANCE_SECONDS = 1.0
"""psutil derives the creation time from the boot time, which moves a little when the clock is set."""


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a live process, or `None` when it is gone."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return ProcessId(pid=pid, created=process.create_time())
    except psutil.NoSuchProcess:
        return None


def is_alive(process: ProcessId | None) -> bool:
    """Tell whether this very process still runs."""
    found = identify(process.pid) if process else None
    return bool(process and found and abs(found.created - process.created) < CREATED_TOLERANCE_SECONDS)


def signal_group(leader: int, number: signal.Signals) -> bool:
    """Send a signal to every process of a group; returns whether there was anyone to get it."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True
