"""Notifications of the browser: a question that costs next to nothing, and the button that switches them on.

Promises that a browser is told of every end and alarm since it last asked, also of runs that it does not show, in the
words of the notices that are sent elsewhere. The page's script (`assets/notify.js`) decides which of them it shows.
Reads only the runs that have changed.
"""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.notify import alarms, end_notice
from gemma_ft.rundir import ACTIVE, RunDir
from gemma_ft.ui.services import Services

IMPORT = 'import(new URL("gemma_ft/notify.js", document.baseURI)).then((bell) => {});'
OVERLAP_SECONDS = 30.0
"""What happened shortly before the last answer is told again: it may not have been on the disk yet."""


def place_watcher(services: Services) -> None:
    """Put what asks for news outside of the tabs, where it works whichever of them is open; it shows nothing."""

    def ends(asked: dict[str, Any]) -> dict[str, Any]:
        return news(services.manager, asked.get("since"), now=time.time())

    gr.HTML(
        html_template="<div></div>",
        js_on_load=IMPORT.replace("{}", "bell.watch(server.ends)"),
        server_functions=[ends],
        elem_id="bell-watcher",  # Hidden by the style: the script of a component that is not visible does not run.
    )


def place_toggle() -> None:
    """Put the button that switches the browser's notifications on and off."""
    gr.HTML(
        html_template='<div class="bell"></div>',
        js_on_load=IMPORT.replace("{}", 'bell.toggle(element.querySelector(".bell"))'),
        apply_default_css=False,
        elem_id="bell",
    )


def news(manager: JobManager, since: float | None, *, now: float) -> dict[str, Any]:
    """Return the ends and alarms since a time (unix seconds; `None` for none), and whether any run goes on."""
    begin = (now if since is None else float(since)) - OVERLAP_SECONDS
    notices: list[dict[str, Any]] = []
    active = False
    for run in manager.runs():
        if _changed(run) < begin:
            continue
        state = manager.state(run)
        active = active or state.status in ACTIVE
        if since is None:
            continue
        for alarm in alarms(run):
            notices.append(_told(run, "attention", float(alarm["t"]), alarm["title"], alarm["message"]))
        if state.ended_at is not None and state.ended_at > begin and state.status not in ACTIVE:
            end = end_notice(run, state)
            notices.append(_told(run, end.occasion, state.ended_at, end.title, end.message))
    return {"now": now, "active": active, "notices": [notice for notice in notices if notice["t"] > begin]}


def _changed(run: RunDir) -> float:
    """Return when a run's state was last written; that of one which goes on is written every second."""
    try:
        return run.state_file.stat().st_mtime
    except OSError:
        return 0.0


def _told(run: RunDir, occasion: str, t: float, title: str, message: str) -> dict[str, Any]:
    return {"run": run.run_id, "occasion": occasion, "t": t, "title": title, "message": message}
