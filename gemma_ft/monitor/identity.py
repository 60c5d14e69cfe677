"""Which process is which: a pid together with when the process was born and in which life of the machine.

Promises that a process is never taken for a later one with the same number, and that setting the clock changes no
identity: on Linux the birth is counted in seconds since the machine started, elsewhere it is what psutil tells.
Zombies count as dead. Ends nothing.
"""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path

import psutil

from gemma_ft.rundir import ProcessId

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SAME_BIRTH_SECONDS = 0.001 if sys.platform == "linux" else 1.0
"""Elsewhere psutil derives the birth from the time of day, which moves a little when the clock is set."""
BIRTH_FIELD, STATE_FIELD = 19, 0
"""Where `starttime` and `state` stand in `/proc/<pid>/stat` behind the name; see proc_pid_stat(5)."""
DEAD_STATES = ("Z", "X", "x")


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a live process, or `None` when it is gone."""
    found = _look(pid)
    return ProcessId(pid=pid, created=found[0], boot=this_boot()) if found else None


def is_alive(process: ProcessId | None) -> bool:
    """Tell whether this very process still runs."""
    return _state_of(process) is not None


def is_halted(process: ProcessId | None) -> bool:
    """Tell whether this very process is there but was stopped by a signal (SIGSTOP): it does nothing any more."""
    return _state_of(process) in ("T", psutil.STATUS_STOPPED)


def uptime() -> float:
    """Return a clock in seconds that all processes of one life of the machine share; setting the time of day does not
    move it, and it stands still while the machine sleeps."""
    return time.monotonic()


@cache
def this_boot() -> str:
    """Return a name of this life of the machine; empty where the system has none."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _state_of(process: ProcessId | None) -> str | None:
    found = _look(process.pid) if process and process.boot == this_boot() else None
    same = process is not None and found is not None and abs(found[0] - process.created) < SAME_BIRTH_SECONDS
    return found[1] if found and same else None


def _look(pid: int) -> tuple[float, str] | None:
    """Return when a process was born and its state, or `None` when there is none or only its remains."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            state = fields[STATE_FIELD].decode()
            born = int(fields[BIRTH_FIELD]) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError, ValueError):
            return None
        return None if state in DEAD_STATES else (born, state)
    try:
        process = psutil.Process(pid)
        status = str(process.status())
        return None if status == psutil.STATUS_ZOMBIE else (process.create_time(), status)
    except psutil.NoSuchProcess:
        return None
