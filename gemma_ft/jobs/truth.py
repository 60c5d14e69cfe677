"""The true state of a run whose processes may be gone or hung, whoever asks.

Promises one answer for page, terminal and other runs: what `state.json` says while the run's supervisor lives, else
what became of the run. A supervisor that hangs, and a trainer that outlives its supervisor and does not leave, are
ended here. Starts nothing.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from filelock import FileLock

from gemma_ft.jobs.heartbeat import is_hung, silent_seconds
from gemma_ft.jobs.notify import announce_end
from gemma_ft.jobs.outcome import conclude
from gemma_ft.jobs.processes import signal_group
from gemma_ft.monitor.identity import is_alive, is_halted
from gemma_ft.rundir import GOING, ProcessId, RunDir, RunState
from gemma_ft.settings import Settings

ORPHAN_SECONDS = 600.0
"""How long a trainer that lost its supervisor may take to save and leave."""


def true_state(run: RunDir, settings: Settings) -> RunState:
    """Return the state of a run; one that has lost its processes is concluded on the way, and that end is told."""
    state = run.state()
    if state.status not in GOING or is_attended(run, state.supervisor):
        return state
    with FileLock(run.path / "reconcile.lock"):
        state = run.state()
        if state.status not in GOING or is_attended(run, state.supervisor):
            return state
        end_hung(run, state.supervisor)
        if is_alive(state.trainer) and not _is_overdue(run, state):
            return state.model_copy(update={"status": "stopping", "phase": "saving, its supervisor is gone"})
        state = conclude(run, state, exit_code=None)
        with suppress(OSError):  # On a full disk it is concluded again by the next who asks.
            run.write_state(state)
            announce_end(run, settings)
            run.clear_wishes()
    return state


def is_attended(run: RunDir, supervisor: ProcessId | None) -> bool:
    """Tell whether a run's supervisor lives and does its work."""
    return supervisor is not None and is_alive(supervisor) and not is_hung(run, supervisor)


def end_hung(run: RunDir, supervisor: ProcessId | None) -> None:
    """End a supervisor that is there and hangs; any other is left alone."""
    if supervisor is not None and is_alive(supervisor) and is_hung(run, supervisor):
        with suppress(ProcessLookupError):
            os.kill(supervisor.pid, signal.SIGKILL)


def _is_overdue(run: RunDir, state: RunState) -> bool:
    """End a trainer that lost its supervisor and was cancelled, cannot leave, or did not leave in all that time."""
    lost_for = silent_seconds(run, state.supervisor)
    overdue = run.wished() == "cancel" or is_halted(state.trainer) or lost_for > ORPHAN_SECONDS
    if overdue and state.trainer is not None:
        signal_group(state.trainer.pid, signal.SIGKILL)
    return overdue
