"""How fast a run goes, what of its time goes where, and how long it will still take.

Promises figures that are right after a resume: what was measured in one attempt is never taken across the gap to the
next. The speed is that of the last `RECENT` steps, mean and 95th percentile of a step's time are those of the last
`SPREAD`; so a figure costs the same after a million steps. `None` stands for what cannot be known yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gemma_ft.monitor.columns import Numbers
from gemma_ft.monitor.facts import RunFacts

RECENT = 100
SPREAD = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Figures of the training loop. Times are seconds; `step_mean` and `step_p95` are without evaluations, answers to
    the sample questions and checkpoints; `left` is with them, as often as they came so far. `report_every` is how many
    steps there are to a report.
    """

    steps_per_second: float | None = None
    tokens_per_second: float | None = None
    rows_per_second: float | None = None
    step_mean: float | None = None
    step_p95: float | None = None
    evaluations: int = 0
    evaluation_mean: float | None = None
    left: float | None = None
    report_every: int | None = None


def pace_of(facts: RunFacts) -> Pace:
    """Return the pace as it is now; call it with the facts locked, or when they do not grow."""
    columns, loop = facts.columns, facts.loop
    attempt = loop.since if loop.since < columns.rows else 0
    begin = max(attempt, columns.rows - RECENT)
    step, tokens, epoch = (columns.column(name, begin) for name in ("step", "tokens", "epoch"))
    duration = columns.column("duration", begin)
    known = len(step) > 1
    worked = float(np.nansum(duration[1:] * np.diff(step))) if known else 0.0
    spread = columns.column("duration", max(attempt, columns.rows - SPREAD))
    spread = spread[np.isfinite(spread)]
    times = [float(fact["seconds"]) for fact in facts.evals[-RECENT:] if isinstance(fact.get("seconds"), (int, float))]
    rows = facts.data.get("train")
    per_step = worked / float(step[-1] - step[0]) if worked else None
    return Pace(
        steps_per_second=1 / per_step if per_step else None,
        tokens_per_second=_ratio(tokens, worked),
        rows_per_second=_ratio(epoch * rows, worked) if isinstance(rows, int) else None,
        step_mean=float(spread.mean()) if len(spread) else None,
        step_p95=float(np.percentile(spread, 95)) if len(spread) else None,
        evaluations=len(facts.evals),
        evaluation_mean=sum(times) / len(times) if times else None,
        left=_left(facts, per_step),
        report_every=int(step[-1] - step[-2]) if known else None,
    )


def _left(facts: RunFacts, per_step: float | None) -> float | None:
    """Return the seconds that are left: for the steps by the pace of the last ones, and for what comes between them."""
    loop = facts.loop
    if per_step is None or not facts.max_steps:
        return None
    made = loop.step - loop.first_step
    other = (loop.seconds - loop.first_seconds - loop.worked) / made if made > 0 else 0.0
    return (per_step + max(0.0, other)) * max(0, facts.max_steps - facts.step)


def _ratio(values: Numbers, seconds: float) -> float | None:
    """Return the growth of a column in so many seconds."""
    if not seconds:
        return None
    found = float(values[-1] - values[0]) / seconds
    return found if np.isfinite(found) and found >= 0 else None
