"""Any exception in the trainer as a report that a person can act on.

Promises an answer for every exception; what is not recognised is called a bug and keeps its type and message. Never
quotes the environment.
"""

from __future__ import annotations

from gemma_ft.errors import ConfigError, DataError, ErrorReport, GemmaFtError
from gemma_ft.full_disk import is_full_disk

FAILED, BAD_INPUT, STOPPED = 1, 2, 3
"""Exit codes of the trainer and of the command line; 0 is a finished run."""
CPU_ALLOCATOR = "DefaultCPUAllocator"
"""What PyTorch's error names when the machine's memory is refused."""


def explain(exc: BaseException) -> ErrorReport:
    """Return what happened and what to do."""
    if isinstance(exc, GemmaFtError):
        return exc.report
    if is_out_of_memory(exc):
        where = "GPU" if _out_of_gpu_memory(exc) else "machine"
        return ErrorReport(
            kind="memory",
            title=f"The {where} ran out of memory",
            what_happened=str(exc).splitlines()[0][:300] or "An allocation was refused.",
            what_to_do="Halve the batch size and double the accumulation (the result stays the same), switch on "
            "gradient checkpointing, shorten the maximum length, or take a smaller model.",
        )
    if is_full_disk(exc):
        return ErrorReport(
            kind="disk",
            title="The disk is full",
            what_happened=str(exc),
            what_to_do="Free some space (old runs and checkpoints), then resume the run.",
        )
    return ErrorReport(
        kind="bug",
        title="The training failed",
        what_happened=f"{type(exc).__name__}: {str(exc)[:1000]}",
        what_to_do="The log ends with the details. If you cannot explain it, please report it with the log.",
    )


def exit_code(exc: BaseException) -> int:
    """Return the exit code that tells a shell what kind of failure this was."""
    return BAD_INPUT if isinstance(exc, (ConfigError, DataError)) else FAILED


def is_out_of_memory(exc: BaseException) -> bool:
    """Tell whether an allocation was refused, on a GPU or in the machine's memory."""
    refused = isinstance(exc, RuntimeError) and CPU_ALLOCATOR in str(exc)
    return isinstance(exc, MemoryError) or refused or _out_of_gpu_memory(exc)


def _out_of_gpu_memory(exc: BaseException) -> bool:
    """Tell by name, so that explaining an early failure needs no torch."""
    return type(exc).__name__ == "OutOfMemoryError"
