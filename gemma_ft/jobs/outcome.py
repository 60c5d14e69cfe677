"""What a run came to, told from what its trainer left behind.

Promises one answer for whoever has to give it: the supervisor that saw the trainer end, or the manager that finds a run
whose supervisor is gone. The trainer's own `result` fact is believed first; signal, exit code and log only when there
is none. That the kernel killed it for lack of memory is said only if the kernel says so.
"""

from __future__ import annotations

import signal
import time

from gemma_ft.errors import ErrorReport
from gemma_ft.events import Fact, read_facts
from gemma_ft.failures import CPU_ALLOCATOR, FAILED_WRITER, INSTALL, LESS_MEMORY, ROOM
from gemma_ft.full_disk import WORDS
from gemma_ft.jobs.log_end import last_line, log_tail
from gemma_ft.rundir import RunDir, RunState, Status

OUTCOMES: dict[str, Status] = {
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "interrupted": "interrupted",
}
RESUME = "Resume the run to go on from its last checkpoint."
CRASHES: dict[int, tuple[str, str]] = {
    signal.SIGBUS: (
        "The training crashed on memory that is not there",
        "Most often the disk or the shared memory (/dev/shm) is full, or a file was cut off while it was read. Check "
        "both with `df -h`, then resume the run.",
    ),
    signal.SIGSEGV: (
        "A compiled library crashed",
        f"It is a bug in a library or a driver, or broken memory. {RESUME} If it happens again, install the "
        "requirements again.",
    ),
    signal.SIGABRT: (
        "A compiled library gave up",
        f"The end of the log says what it found wrong. {RESUME}",
    ),
    signal.SIGFPE: ("A compiled library crashed", f"It divided by zero. {RESUME}"),
    signal.SIGILL: (
        "This processor lacks what a library needs",
        "Install packages that were built for this processor, or use another machine.",
    ),
    signal.SIGXCPU: ("The training used up its processor time", "Raise the limit (`ulimit -t`), and resume the run."),
    signal.SIGXFSZ: ("A file grew beyond its limit", "Raise the limit (`ulimit -f`), and resume the run."),
}
"""What a signal means that the trainer did not survive."""
LOGGED = (
    ("install", ("ModuleNotFoundError", "ImportError"), "A package is missing or broken", INSTALL),
    ("memory", ("MemoryError", CPU_ALLOCATOR), "The machine ran out of memory", LESS_MEMORY),
    ("disk", (*WORDS, *FAILED_WRITER), "The disk is full", ROOM),
)
"""What the last line of a log tells of an end that nothing else explains."""


def conclude(run: RunDir, state: RunState, exit_code: int | None, *, memory_ran_out: bool = False) -> RunState:
    """Return the run's final state.

    `exit_code` is `None` when nobody saw the trainer end; `memory_ran_out` says that the kernel killed something of it.
    """
    result = _result_of_attempt(run, state.attempt)
    final = {"ended_at": time.time(), "exit_code": exit_code, "last_line": last_line(run.log)}
    if result is not None and (status := OUTCOMES.get(result.get("outcome", ""))):
        error = ErrorReport.model_validate(result["error"]) if result.get("error") else None
        if error is not None and error.kind == "killed" and memory_ran_out:
            error = killed_for_memory(run)
        return state.model_copy(update={**final, "status": status, "error": error})
    if state.stop is not None and (state.stop.wish == "cancel" or state.stop.rung != "asked"):
        return state.model_copy(
            update={**final, "status": "interrupted" if state.stop.wish == "shutdown" else "stopped"}
        )
    if exit_code is None:
        return state.model_copy(update={**final, "status": "interrupted"})
    error = report_exit(run, exit_code, memory_ran_out=memory_ran_out)
    return state.model_copy(update={**final, "status": "failed", "error": error})


def report_exit(run: RunDir, exit_code: int, *, memory_ran_out: bool) -> ErrorReport:
    """Put an end without a word from the trainer into words."""
    line = last_line(run.log)
    said = f" Its last words were: {line}" if line else ""
    if exit_code == -signal.SIGKILL and memory_ran_out:
        return killed_for_memory(run)
    if exit_code == -signal.SIGKILL:
        return ErrorReport(
            kind="killed",
            title="The training process was killed",
            what_happened="Somebody or the system ended it with SIGKILL, most often because memory ran out; the kernel "
            f"has no record of that here.{said}",
            what_to_do="Resume the run. If it happens again, use a smaller batch or a shorter maximum length, or a "
            "machine with more memory.",
            details=log_tail(run.log),
        )
    if exit_code > 0 and (found := _by_words(line)):
        return found.model_copy(update={"details": log_tail(run.log)})
    title, what_to_do = CRASHES.get(
        -exit_code, ("The training process ended unexpectedly", f"Read the end of the log. {RESUME}")
    )
    return ErrorReport(
        kind="crashed",
        title=title,
        what_happened=f"It ended with {_how(exit_code)} and left no reason.{said}",
        what_to_do=what_to_do,
        details=log_tail(run.log),
    )


def killed_for_memory(run: RunDir) -> ErrorReport:
    """Return the report of a training that the kernel ended, and says so."""
    return ErrorReport(
        kind="memory",
        title="The kernel ended the training because memory ran out",
        what_happened="The machine, or the container it runs in, had no memory left, and the kernel killed a process "
        "of the training to get some.",
        what_to_do=f"{LESS_MEMORY} End other programs, or use a machine with more memory. Then resume the run.",
        details=log_tail(run.log),
    )


def did_not_start(run: RunDir) -> ErrorReport:
    """Return the report of a run whose supervisor ended before it took over."""
    line = last_line(run.supervisor_log)
    found = _by_words(line) or ErrorReport(
        kind="bug",
        title="The run could not be started",
        what_happened=f"Its supervisor ended before it took over: {line or 'it said nothing'}.",
        what_to_do="Check that the disk has room and that the requirements are installed, then resume the run.",
    )
    return found.model_copy(update={"details": log_tail(run.supervisor_log)})


def _by_words(line: str) -> ErrorReport | None:
    """Return the report of an end that only the last line of a log explains, if it does."""
    for kind, words, title, what_to_do in LOGGED:
        if any(one in line for one in words):
            return ErrorReport(kind=kind, title=title, what_happened=line, what_to_do=what_to_do)
    return None


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"signal {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"signal {-exit_code}"


def _result_of_attempt(run: RunDir, attempt: int) -> Fact | None:
    facts, _ = read_facts(run.events)
    results = (f for f in reversed(facts) if f.get("event") == "result" and f.get("attempt") == attempt)
    return next(results, None)
