"""What a person reads: states, figures and problems put into words. Pure functions, no gradio.

Promises one truth per state, a dash where there is nothing yet, and no markup from data: texts are plain, and what
goes into Markdown is escaped here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gemma_ft.monitor.facts import RunFacts
from gemma_ft.monitor.pace import Pace, pace_of
from gemma_ft.monitor.silence import patience
from gemma_ft.rundir import ACTIVE, RunState

DASH = "–"
COUNTDOWN = "{left}"
"""Stands in a sentence for the time until `clock.due_at`, which the browser counts down."""
HALTED = " Its process does not move: a signal has halted it (SIGSTOP). Cancel ends it, SIGCONT lets it go on."

HEADLINES = {
    "queued": "Waiting to start",
    "preparing": "Preparing",
    "training": "Training",
    "stopping": "Stopping",
    "finished": "Finished: your model is ready",
    "stopped": "Stopped",
    "failed": "Failed",
    "interrupted": "Interrupted",
}


def view(
    about: Mapping[str, str | None],
    state: RunState,
    facts: RunFacts,
    *,
    has_model: bool,
    now: float,
    pace: Pace | None = None,
    place: int | None = None,
    halted: bool = False,
) -> dict[str, Any]:
    """Return what the dashboard says of a run's state: one headline, one line of detail, the bar, what can be done.

    `about` has the run's `name` and `model`; `place` is its place in line, 1 for the next one; `halted` says that its
    process was stopped by a signal. Times that go on by themselves are not in it but what they are counted from, in
    `clock` (unix seconds), so it changes only when the run does.
    """
    active = state.status in ACTIVE
    pace = pace or pace_of(facts)
    return {
        "name": about["name"],
        "model": about["model"],
        "status": state.status,
        "headline": _headline(state, has_model=has_model),
        "detail": _detail(state, facts, now, pace, place) + (HALTED if halted and active else ""),
        "progress": _progress(state, facts),
        "clock": _clock(state, facts, pace),
        "error": state.error.model_dump() if state.error else None,
        "last_line": state.last_line if state.status in ("failed", "interrupted") else "",
        "warnings": facts.warnings[-5:],
        "published": facts.published.get("url"),
        "active": active,
    }


def duration(seconds: float | None) -> str:
    """Say a time span: 42 s, 3 min 20 s, 5 h 03 min, 2 d 4 h."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def count(number: float | None) -> str:
    """Say a large number: 950, 1.2 M, 27.4 B."""
    if number is None:
        return DASH
    for least, unit, letter in ((0.9995e9, 1e9, "B"), (0.9995e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            return f"{number / unit:.1f} {letter}"
    return f"{number:,.0f}"


def size(number: float | None) -> str:
    """Say an amount of memory or disk in decimal units: 640 MB, 1.3 GB, 27 GB."""
    if number is None:
        return DASH
    if number < 1e9:
        return f"{number / 1e6:,.0f} MB" if number >= 1e6 else f"{number / 1e3:,.0f} kB"
    return f"{number / 1e9:,.1f} GB" if number < 1e10 else f"{number / 1e9:,.0f} GB"


def figure(number: float | str | None, digits: int = 4) -> str:
    """Say a measured value; what is not finite is said so."""
    if number is None:
        return DASH
    value = float(number)
    return f"{value:.{digits}f}" if math.isfinite(value) else str(value)


def rows_of(number: int) -> str:
    """Say how many rows: 1 row, 1,000 rows."""
    return f"{number:,} row" if number == 1 else f"{number:,} rows"


def problems_markdown(problems: Sequence[Mapping[str, Any]]) -> str:
    """Return the problems of a check as a list, the first ten of them."""
    lines = []
    for problem in problems[:10]:
        mark = "✗" if problem["severity"] == "error" else "Note:"
        row = f"Row {problem['row']}: " if problem["row"] else ""
        message = escape(f"{row}{problem['message']}").replace("\n", "<br>")
        lines.append(f"- {mark} {message} **{escape(problem['fix'])}**")
    if len(problems) > 10:
        lines.append(f"- ... and {len(problems) - 10} more")
    return "\n".join(lines)


def escape(text: str) -> str:
    """Make text safe inside Markdown: no tags, no links, no emphasis."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~$-])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def rate(number: float | None) -> str:
    """Say how many a second with three digits: 0.0123, 4.56, 1,234."""
    if number is None or not math.isfinite(number):
        return DASH
    if number >= 1e4:
        return count(number)
    digits = 0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3
    return f"{number:,.{digits}f}"


def seconds(number: float | None) -> str:
    """Say a short time with three digits, a longer one as a span: 12 ms, 3.21 s, 2 min 05 s."""
    if number is None or not math.isfinite(number):
        return DASH
    if number < 1:
        return f"{number * 1000:.0f} ms"
    return f"{number:.2f} s" if number < 10 else f"{number:.1f} s" if number < 60 else duration(number)


def _headline(state: RunState, *, has_model: bool) -> str:
    if state.status == "finished" and not has_model:
        return "Finished, but there is no model"
    if state.status == "failed" and state.error:
        return state.error.title
    return HEADLINES[state.status]


def _detail(state: RunState, facts: RunFacts, now: float, pace: Pace, place: int | None) -> str:
    """Say in one line what is going on, or what can be done next."""
    saved = f" The last checkpoint is of step {facts.checkpoint:,}." if facts.checkpoint else ""
    if state.status == "queued":
        return f"Number {place} in line; it starts by itself when a device is free." if place else ""
    if state.status == "stopping":
        if state.stop and state.stop.next_rung_at:
            saving = "Leaving without saving" if state.stop.wish == "cancel" else "Saving a checkpoint"
            return f"{saving}; if that takes longer than {COUNTDOWN}, the process is ended."
        return f"{state.phase.capitalize()}."
    if state.status == "interrupted":
        return f"The machine went down, or the supervisor went away.{saved or ' No checkpoint had been written yet.'}"
    if state.status == "stopped":
        return f"Resume it when you like.{saved}" if saved else "It was stopped before a checkpoint was written."
    if state.status in ("preparing", "training"):
        return f"{(state.phase or 'starting').capitalize()}.{_silence(state, facts, now, pace)}"
    if state.status == "finished":
        return "Ask it something in the Playground." if not state.error else state.error.title
    return saved.strip()


def _silence(state: RunState, facts: RunFacts, now: float, pace: Pace) -> str:
    """Say how long nothing was heard of a training that should speak at every step."""
    if state.status != "training" or facts.newest is None:
        return ""
    quiet = now - facts.newest
    each = 1 / pace.steps_per_second if pace.steps_per_second else None
    normal = patience(each, report_every=pace.report_every or 1)
    return f" No sign of life for {duration(quiet)}." if quiet > normal else ""


def _progress(state: RunState, facts: RunFacts) -> dict[str, Any]:
    """Return the bar: a share between 0 and 1 (or `None` while it cannot be known) and a label."""
    total = facts.phase.get("total")
    if state.status == "preparing":
        if not isinstance(total, int) or total <= 0:
            return {"share": None, "label": ""}
        share = min(1.0, max(0.0, float(facts.phase.get("done") or 0) / total))
        return {"share": share, "label": f"{str(facts.phase.get('phase')).capitalize()}: {100 * share:.0f} %"}
    if facts.step and facts.max_steps:
        step, steps = facts.step, facts.max_steps
        epoch = facts.columns.last("epoch")
        passed = f" · epoch {epoch:.2f}" if epoch is not None else ""
        return {
            "share": min(1.0, step / steps),
            "label": f"Step {step:,} of {steps:,} · {100 * step // steps} %{passed}",
        }
    return {"share": None if state.status in ACTIVE else 0.0, "label": ""}


def _clock(state: RunState, facts: RunFacts, pace: Pace) -> dict[str, Any]:
    """Return what times are counted from.

    `spent` are the seconds of what has ended, all attempts together; `since` is when the attempt began that goes on,
    `ends_at` when it should end, `due_at` when the next rung of the stop ladder is due.
    """
    started, active = state.started_at, state.status in ACTIVE
    before = [end - begin for begin, end in facts.attempts if started is None or begin < started]
    spent = sum(before) if started is not None else None
    if started is not None and not active:
        spent = sum(before) + max(0.0, (state.ended_at or facts.newest or started) - started)
    left = pace.left if state.status == "training" else None
    return {
        "spent": None if spent is None else round(spent, 1),
        "since": started if active else None,
        "ends_at": round((facts.newest or 0.0) + left, 1) if left is not None else None,
        "due_at": state.stop.next_rung_at if state.stop and state.status == "stopping" else None,
    }
