"""The answer to a training that the kernel killed because memory ran out: once more, with less of it.

Promises that this is done only when the configuration allows it, nobody asked the run to stop, and it was in the middle
of training, where a smaller batch helps. What is made smaller is decided by the trainer of the next attempt
(`train/fitting.py`), which finds the fact that is written here, and fails in words when nothing smaller is left; so
the attempts come to an end.
"""

from __future__ import annotations

import signal

from gemma_ft.errors import ConfigError
from gemma_ft.events import FactWriter
from gemma_ft.rundir import KILLED_FOR_MEMORY, RunDir, RunState

NEXT_PHASE = "starting again with less memory"


def next_attempt(run: RunDir, state: RunState, exit_code: int) -> dict[str, object] | None:
    """Return what changes in the state before the run is started again, or `None` when this attempt was the last.

    To be asked when the kernel killed something while this attempt ran.
    Between two attempts nobody else writes facts, so the reason is added to them.
    """
    killed = exit_code == -signal.SIGKILL and state.phase == "training"
    if not killed or state.stop is not None or run.wished() or not _may_shrink(run):
        return None
    message = "The kernel ended the training because memory ran out. It is started again with a smaller batch."
    try:
        facts = FactWriter(run.events)
        facts.append("warning", sync=True, message=message, kind=KILLED_FOR_MEMORY, attempt=state.attempt)
        facts.close()
    except OSError:  # Without the fact the next attempt would be the same again.
        return None
    return {"attempt": state.attempt + 1, "status": "preparing", "phase": NEXT_PHASE, "trainer": None}


def _may_shrink(run: RunDir) -> bool:
    """Tell whether the configuration allows a smaller batch."""
    try:
        return run.config().training.on_out_of_memory == "smaller_batch"
    except ConfigError:
        return False
