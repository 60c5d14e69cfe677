"""How long a training may say nothing before one should worry: one rule for the page and for the alerts.

A training speaks at each step that is logged, but not while it evaluates or writes a checkpoint. Pure arithmetic.
"""

from __future__ import annotations

SILENT_SECONDS = 60.0
SILENT_STEPS = 20
"""Steps differ in length, but not twentyfold; and nobody wants to hear of a pause shorter than a minute."""
SILENT_REPORTS = 3
"""With `log_every` of 1,000, steps are told of only every thousand steps' time."""
SILENT_PAUSES = 2
"""A pause that was over by itself (an evaluation, a checkpoint, answers to questions) may come again, and longer."""
FIRST_STEP_SECONDS = 300.0
"""The first step compiles, fills caches and answers the questions, and nothing is known of its pace."""
LONGEST_PAUSE_SECONDS = 1800.0
"""A longer pause is taken for an accident, and does not make the next one normal."""


def patience(step_seconds: float | None, *, report_every: int = 1, pause: float = 0.0) -> float:
    """Return how many seconds of silence are normal.

    `step_seconds` is the time of one step, `None` before it is known; `report_every` how many steps there are to a
    report; `pause` the longest one so far, or the one that must be expected.
    """
    if step_seconds is None:
        return max(FIRST_STEP_SECONDS, SILENT_PAUSES * min(pause, LONGEST_PAUSE_SECONDS))
    return max(
        SILENT_SECONDS,
        SILENT_STEPS * step_seconds,
        SILENT_REPORTS * report_every * step_seconds,
        SILENT_PAUSES * min(pause, LONGEST_PAUSE_SECONDS),
    )
