"""The Dashboard tab: a live view of one run, drawn by the browser from what `LiveRuns` answers, and the run's buttons.

Promises that the buttons act on the run that is on the screen and on no other: they carry its id. The view only
reads; what changes a run is an ordinary event of the page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from gemma_ft.ui.bell import place_toggle
from gemma_ft.ui.disk_panel import add_disk_panel
from gemma_ft.ui.live import LiveRuns
from gemma_ft.ui.served import answer
from gemma_ft.ui.services import Services
from gemma_ft.ui.tensorboard import add_tensorboard
from gemma_ft.ui.wiring import QUEUED, QUIET, REQUEST_ID, SHOW_RUN, shows_errors

SCRIPT = "gemma_ft/dashboard.js"
ON_LOAD = f"""
import(new URL("{SCRIPT}", document.baseURI)).then(
  (dashboard) => dashboard.mount(element, server.poll, (state) => trigger("run_state", state))
);
"""
DECLINED = "(declined)"
FAR = 1_000_000
"""More places than any line has."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """What other tabs need of this one: the run on the screen, and the button that leads to the Playground."""

    shown_run: gr.Textbox
    to_playground: gr.Button


class Buttons:
    """The run's buttons, by the name of what they do (see `actions.possible`); none is visible before it can do it."""

    def __init__(self) -> None:
        self.by_name: dict[str, gr.Button] = {}
        with gr.Row(elem_classes="button-row"):
            self._add("stop", "Stop and save", "stop-button", variant="stop")
            self._add("cancel", "Cancel without saving", "cancel-button")
            self._add("save", "Save now", "save-button")
            self._add("sample", "Sample now", "sample-button")
            self._add("leave", "Leave the line", "leave-button", variant="stop")
            self._add("first", "Make it the next", "first-button")
            self._add("last", "Make it the last", "last-button")
            self._add("resume", "Resume", "resume-button", variant="primary")
            self._add("chat", "Try it in the Playground", "playground-button", variant="primary")
            self._add("continue", "Train it further", "continue-button")
        with gr.Row(visible=False, elem_id="continue-row", equal_height=True) as self.further:
            self.epochs = gr.Number(
                value=1, minimum=0.01, maximum=1000, label="More epochs", scale=0, min_width=160, interactive=True
            )
            self.go_on = gr.Button("Train further as a new run", elem_id="go-on-button", variant="primary", scale=0)

    def __getitem__(self, name: str) -> gr.Button:
        return self.by_name[name]

    def _add(self, name: str, label: str, elem_id: str, variant: Any = "secondary") -> None:
        self.by_name[name] = gr.Button(label, elem_id=elem_id, variant=variant, visible=False, min_width=140)


def build_dashboard(services: Services, token: gr.Textbox) -> Dashboard:
    """Lay out the tab and tie its buttons; `token` is the field for a Hub token, which a resumed run may need."""
    live = LiveRuns(services.manager, in_control=services.in_control)

    def poll(cursor: dict[str, Any]) -> Any:
        return answer(live.poll(cursor))

    # Textboxes that are not shown, and no gr.State: only a component's value can be changed by a script of the page.
    shown_run = gr.Textbox(visible="hidden", elem_id="shown-run")
    begun = gr.Textbox(visible="hidden", elem_id="continued-run")
    buttons = Buttons()
    rescue = gr.Button(
        "Resume all runs that were interrupted", elem_id="rescue-button", variant="primary", visible=False
    )
    place_toggle()
    with gr.Tabs(elem_id="dashboard-tabs"):
        with gr.Tab("Curves", elem_id="tab-curves"):
            screen = gr.HTML(
                html_template='<div class="dash"></div>',
                js_on_load=ON_LOAD,
                server_functions=[poll],
                apply_default_css=False,
                elem_id="dashboard",
            )
        with gr.Tab("TensorBoard", elem_id="tab-tensorboard") as tensorboard:
            add_tensorboard(tensorboard, shown_run)
    add_disk_panel(services, shown_run)

    def follow(event: gr.EventData) -> list[Any]:
        state = dict(event._data or {})
        can = state.get("can") or []
        shown = [gr.update(visible=name in can) for name in buttons.by_name]
        return [state.get("run", ""), gr.update(visible="rescue" in can), gr.update(visible=False), *shown]

    screen.run_state(follow, None, [shown_run, rescue, buttons.further, *buttons.by_name.values()], **QUIET)
    _tie_buttons(buttons, services, shown_run)
    buttons["resume"].click(
        shows_errors(lambda run_id, typed: services.resume(run_id, services.token(typed)) and None),
        [shown_run, token],
        None,
        **QUIET,
    )
    rescue.click(shows_errors(lambda typed: services.rescue(services.token(typed)) and None), token, None, **QUIET)

    @shows_errors
    def train_further(request: str, run_id: str, epochs: float, token_typed: str) -> str:
        return services.continue_run(run_id, epochs, services.token(token_typed), request).run_id

    buttons["continue"].click(lambda: gr.update(visible=True), None, buttons.further, **QUIET)
    going_on = buttons.go_on.click(
        train_further, [begun, shown_run, buttons.epochs, token], begun, js=REQUEST_ID, **QUIET
    )
    going_on.success(None, begun, None, js=SHOW_RUN, api_visibility="private")
    return Dashboard(shown_run=shown_run, to_playground=buttons["chat"])


def _tie_buttons(buttons: Buttons, services: Services, shown_run: gr.Textbox) -> None:
    """Tie the buttons that ask something of the run that is on the screen."""
    manager = services.manager
    asked: dict[str, tuple[Callable[[str], Any], str]] = {
        "stop": (lambda run: manager.stop(run), "It stops after the current step and saves a checkpoint."),
        "cancel": (
            lambda run: manager.stop(run, save=False),
            "It stops without saving. Folder, log and earlier checkpoints stay.",
        ),
        "leave": (lambda run: manager.stop(run), "It will not be trained. It can be resumed later."),
        "first": (lambda run: manager.move(run, -FAR), "It is the next one in line."),
        "last": (lambda run: manager.move(run, FAR), "It is the last one in line."),
        "save": (lambda run: manager.request(run, "save_now"), "A checkpoint is saved after the current step."),
        "sample": (lambda run: manager.request(run, "sample_now"), "The questions are answered after this step."),
    }
    for name, (act, told) in asked.items():
        buttons[name].click(
            _asking(services, act, told),
            shown_run,
            None,
            js=f"(run) => confirm('Cancel this run without saving a checkpoint?') ? run : '{DECLINED}'"
            if name == "cancel"
            else None,
            **QUEUED,
        )


def _asking(services: Services, act: Callable[[str], Any], told: str) -> Callable[[str], None]:
    """Return a handler that asks something of a run and says what will happen."""

    @shows_errors
    def ask(run_id: str) -> None:
        if run_id == DECLINED:
            return
        services.require_control()
        act(run_id)
        gr.Info(told)

    return ask
