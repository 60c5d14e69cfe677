"""What a run came to, told from what its trainer left behind.

Promises one answer for whoever has to give it: the supervisor that saw the trainer end, or the manager that finds a run
whose supervisor is gone. The trainer's own `result` fact is believed first; the exit code only when there is none.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from gemma_ft.errors import ErrorReport
from gemma_ft.events import Fact, read_facts
from gemma_ft.rundir import RunDir, RunState, Status

TAIL_BYTES = 16_384
OUTCOMES: dict[str, Status] = {
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "interrupted": "interrupted",
}


def conclude(run: RunDir, state: RunState, exit_code: int | None) -> RunState:
    """Return the run's final state; `exit_code` is `None` when nobody saw the trainer end."""
    result = _result_of_attempt(run, state.attempt)
    final = {"ended_at": time.time(), "exit_code": exit_code, "last_line": last_line(run.log)}
    if result is not None and (status := OUTCOMES.get(result.get("outcome", ""))):
        error = ErrorReport.model_validate(result["error"]) if result.get("error") else None
        return state.model_copy(update={**final, "status": status, "error": error})
    if state.stop is not None and (state.stop.wish == "cancel" or state.stop.rung != "asked"):
        return state.model_copy(update={**final, "status": "stopped"})
    if exit_code is None:
        return state.model_copy(update={**final, "status": "interrupted"})
    return state.model_copy(update={**final, "status": "failed", "error": _report_exit(exit_code, final["last_line"])})


def last_line(log: Path) -> str:
    """Return the last line of a log that says anything, shortened to 500 characters; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def _result_of_attempt(run: RunDir, attempt: int) -> Fact | None:
    facts, _ = read_facts(run.events)
    results = (f for f in reversed(facts) if f.get("event") == "result" and f.get("attempt") == attempt)
    return next(results, None)


def _report_exit(exit_code: int, line: object) -> ErrorReport:
    """Put an end without a word from the trainer into words."""
    said = f" Its last words were: {line}" if line else ""
    if exit_code == -signal.SIGKILL:
        return ErrorReport(
            kind="killed",
            title="The training process was killed",
            what_happened=f"The system ended it with SIGKILL, most often because the machine ran out of memory.{said}",
            what_to_do="Use a smaller batch or a shorter maximum length, or a machine with more memory, and resume.",
        )
    how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
    return ErrorReport(
        kind="crashed",
        title="The training process ended unexpectedly",
        what_happened=f"It ended with {how} and left no reason.{said}",
        what_to_do="Read the end of the log; resume the run to go on from its last checkpoint.",
    )
