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
from gemma_ft.rundir import ACTIVE, RunState

DASH = "–"
SILENT_SECONDS = 60.0
SILENT_STEPS = 20
"""A training is called silent after this time, or this many steps' time if that is longer."""
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
    place: int | None = None,
    halted: bool = False,
) -> dict[str, Any]:
    """Return what the dashboard shows of a run besides its curves and its log; `about` has its `name` and `model`.

    `place` is its place in the line of those that wait, 1 for the next one; `halted` says that its process was stopped
    by a signal.
    """
    active = state.status in ACTIVE
    return {
        "name": about["name"],
        "status": state.status,
        "headline": _headline(state, has_model=has_model),
        "detail": _detail(state, facts, now, place) + (HALTED if halted and active else ""),
        "progress": _progress(state, facts),
        "figures": _figures(about, state, facts, now),
        "error": state.error.model_dump() if state.error else None,
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


def pace(facts: RunFacts) -> float:
    """Return the seconds that one of the last hundred steps took; 0 before there are two."""
    recent = facts.steps[-100:]
    steps = int(recent[-1]["step"]) - int(recent[0]["step"]) if len(recent) > 1 else 0
    return (float(recent[-1]["t"]) - float(recent[0]["t"])) / steps if steps else 0.0


def remaining_seconds(facts: RunFacts) -> float | None:
    """Estimate what is left from the pace of the last steps; `None` before there are two."""
    each = pace(facts)
    if not each or not facts.steps[-1].get("max_steps"):
        return None
    return each * (int(facts.steps[-1]["max_steps"]) - int(facts.steps[-1]["step"]))


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


def _headline(state: RunState, *, has_model: bool) -> str:
    if state.status == "finished" and not has_model:
        return "Finished, but there is no model"
    if state.status == "failed" and state.error:
        return state.error.title
    return HEADLINES[state.status]


def _detail(state: RunState, facts: RunFacts, now: float, place: int | None) -> str:
    """Say in one line what is going on, or what can be done next."""
    saved = f" The last checkpoint is of step {facts.checkpoint}." if facts.checkpoint else ""
    if state.status == "queued":
        return f"Number {place} in line; it starts by itself when a device is free." if place else ""
    if state.status == "stopping":
        if state.stop and state.stop.next_rung_at:
            patience = duration(state.stop.next_rung_at - now)
            saving = "Saving a checkpoint" if state.stop.wish == "stop" else "Leaving without saving"
            return f"{saving}; if that takes longer than {patience}, the process is ended."
        return f"{state.phase.capitalize()}."
    if state.status == "interrupted":
        return f"The machine or the supervisor went away.{saved or ' No checkpoint had been written yet.'}"
    if state.status == "stopped":
        return f"Resume it when you like.{saved}" if saved else "It was stopped before a checkpoint was written."
    if state.status in ("preparing", "training"):
        return f"{(state.phase or 'starting').capitalize()}.{_silence(state, facts, now)}"
    if state.status == "finished":
        return "Ask it something in the Playground."
    return saved.strip()


def _silence(state: RunState, facts: RunFacts, now: float) -> str:
    """Say how long nothing was heard of a training that should speak at every step."""
    if state.status != "training" or facts.newest is None:
        return ""
    quiet = now - facts.newest
    return f" No sign of life for {duration(quiet)}." if quiet > max(SILENT_SECONDS, SILENT_STEPS * pace(facts)) else ""


def _progress(state: RunState, facts: RunFacts) -> dict[str, Any]:
    """Return the bar: a share between 0 and 1 (or `None` while it cannot be known) and a label."""
    if state.status == "preparing" and facts.phase.get("total"):
        done, total = int(facts.phase["done"]), int(facts.phase["total"])
        return {"share": done / total, "label": f"{facts.phase['phase'].capitalize()}: {100 * done // total} %"}
    if facts.steps and facts.steps[-1].get("max_steps"):
        step, steps = int(facts.steps[-1]["step"]), int(facts.steps[-1]["max_steps"])
        return {"share": step / steps, "label": f"Step {step:,} of {steps:,} ({100 * step // steps} %)"}
    return {"share": None if state.status in ACTIVE else 0.0, "label": ""}


def _figures(about: Mapping[str, str | None], state: RunState, facts: RunFacts, now: float) -> list[dict[str, str]]:
    """Return the figures above the chart: label, value, and a hint for the pointer."""
    last = facts.steps[-1] if facts.steps else {}
    held_out = facts.evals[-1].get("loss") if facts.evals else None
    elapsed = (state.ended_at or now) - state.started_at if state.started_at else None
    left = remaining_seconds(facts) if state.status == "training" else None
    model = facts.model
    trained = f"{count(model.get('trained'))} of {count(model.get('parameters'))}" if model else DASH
    rows = (
        ("Loss", figure(last.get("loss")), "Loss on the trained tokens at the newest step; lower is better."),
        ("Held-out loss", figure(held_out), "Loss on rows that are not trained on, at the last evaluation."),
        ("Epoch", figure(last.get("epoch"), 2), "How often the data has been seen."),
        ("Elapsed", duration(elapsed), "Wall time since this attempt began."),
        ("Time left", duration(left), "From the pace of the last steps."),
        ("Trained weights", trained, "Weights that may change, of all weights of the model."),
        ("Tokens", count(last.get("tokens")), "Tokens that went through the model so far."),
        ("Model", about["model"] or DASH, "The model that is tuned."),
    )
    return [{"label": label, "value": value, "hint": hint} for label, value, hint in rows]
