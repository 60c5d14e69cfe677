"""The Dashboard tab: a live view of one run, drawn by the browser from what `LiveRuns` answers, and the run's buttons.

Promises that the buttons act on the run that is on the screen and on no other: they carry its id. The view only
reads; what changes a run is an ordinary event of the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from gemma_ft.ui.live import LiveRuns
from gemma_ft.ui.served import answer
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import QUEUED, QUIET, shows_errors

SCRIPT = "gemma_ft/dashboard.js"
ON_LOAD = f"""
import(new URL("{SCRIPT}", document.baseURI)).then(
  (dashboard) => dashboard.mount(element, server.poll, (state) => trigger("run_state", state))
);
"""
DECLINED = "(declined)"
WHICH = ("can_stop", "can_cancel", "can_resume", "can_chat")


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What other tabs need of this one: the run on the screen, and the button that leads to the Playground."""

    shown_run: gr.Textbox
    to_playground: gr.Button


def build_dashboard(services: Services, token: gr.Textbox) -> Dashboard:
    """Lay out the tab and tie its buttons; `token` is the field for a Hub token, which a resumed run may need."""
    live = LiveRuns(services.manager)

    def poll(cursor: dict[str, Any]) -> Any:
        return answer(live.poll(cursor))

    # A textbox that is not shown, and no gr.State: only a component's value can be changed by a script of the page.
    shown_run = gr.Textbox(visible="hidden", elem_id="shown-run")
    with gr.Row(elem_classes="button-row"):
        stop = gr.Button("Stop and save", elem_id="stop-button", variant="stop", visible=False, min_width=140)
        cancel = gr.Button("Cancel without saving", elem_id="cancel-button", visible=False, min_width=140)
        resume = gr.Button("Resume", elem_id="resume-button", variant="primary", visible=False, min_width=140)
        playground = gr.Button(
            "Try it in the Playground", elem_id="playground-button", variant="primary", visible=False, min_width=140
        )
    screen = gr.HTML(
        html_template='<div class="dash"></div>',
        js_on_load=ON_LOAD,
        server_functions=[poll],
        apply_default_css=False,
        elem_id="dashboard",
    )

    def follow(event: gr.EventData) -> list[Any]:
        state = dict(event._data or {})
        return [state.get("run", ""), *(gr.update(visible=bool(state.get(name))) for name in WHICH)]

    @shows_errors
    def ask_to_stop(run_id: str) -> None:
        services.manager.stop(run_id, save=True)
        gr.Info("It stops after the current step and saves a checkpoint.", title="Stopping")

    @shows_errors
    def ask_to_cancel(run_id: str) -> None:
        if run_id == DECLINED:
            return
        services.manager.stop(run_id, save=False)
        gr.Info("It stops without saving. Folder, log and earlier checkpoints stay.", title="Cancelling")

    @shows_errors
    def ask_to_resume(run_id: str, token_typed: str) -> None:
        services.resume(run_id, services.token(token_typed))

    screen.run_state(follow, None, [shown_run, stop, cancel, resume, playground], **QUIET)
    stop.click(ask_to_stop, shown_run, None, **QUEUED)
    cancel.click(
        ask_to_cancel,
        shown_run,
        None,
        js=f"(run) => confirm('Cancel this run without saving a checkpoint?') ? run : '{DECLINED}'",
        **QUEUED,
    )
    resume.click(ask_to_resume, [shown_run, token], None, **QUIET)
    return Dashboard(shown_run=shown_run, to_playground=playground)
