"""The Create tab: Model, Data, Method, Review, Start; and *Try it*, which fills all of it in.

Promises that nothing starts before the whole configuration was on the screen, that what is wrong is said in the
Review with a remedy, and that the form keeps what was typed whatever goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from gemma_ft.config import parse_config
from gemma_ft.errors import ConfigError
from gemma_ft.recipes import try_it
from gemma_ft.ui.data_step import DataStep, wire_data_step
from gemma_ft.ui.form import Form
from gemma_ft.ui.method_step import MethodStep
from gemma_ft.ui.model_step import ModelStep
from gemma_ft.ui.review_step import (
    LOOKING,
    ReviewStep,
    can_be_measured,
    check_values,
    measure_values,
    plan_values,
    pressed_changes,
)
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import QUEUED, QUIET, REQUEST_ID, SHOW_RUN, shows_errors

MODEL, DATA, METHOD, REVIEW = 1, 2, 3, 4
REVIEWED = ("name", "publish.repo", "publish.private", "notify.url", "notify.when")
"""Knobs that can be changed in the Review itself."""
WELCOME = """### Tune a Gemma on your own examples
Pick a Gemma, bring questions and answers, and watch it learn them on the Dashboard.<br>
Then talk to the base and the tuned model side by side in the Playground, and publish the result.<br>
**New here?** *Try it* fills everything in: a tiny Gemma that learns 50 capitals in about a minute, on any computer."""


class CreateTab:
    """The tab's components, laid out when this is made inside the tab."""

    def __init__(self, services: Services) -> None:
        self.form = Form()
        with gr.Row(elem_classes="welcome", equal_height=True):
            gr.Markdown(WELCOME)
            self.try_it = gr.Button("Try it", variant="primary", elem_id="try-button", min_width=120, scale=0)
        with gr.Walkthrough(selected=MODEL, elem_id="create-steps") as self.steps:
            with gr.Step("Model", id=MODEL):
                ModelStep(self.form, services)
                self.token = _token_input(services)
                self._moves(MODEL, "Next: Data", back=False)
            with gr.Step("Data", id=DATA):
                self.data = DataStep(self.form, services)
                self._moves(DATA, "Next: Method")
            with gr.Step("Method", id=METHOD):
                MethodStep(self.form, services, self.token)
                self._moves(METHOD, "Next: Review")
            with gr.Step("Review", id=REVIEW):
                self.review = ReviewStep(self.form, services)
                self._turn(self.review.back, METHOD)

    @property
    def held(self) -> list[Any]:
        """The token and every input, as the handlers get them."""
        return [self.token, *self.form.components]

    def _moves(self, place: int, forth: str, *, back: bool = True) -> None:
        with gr.Row(elem_classes="button-row"):
            if back:
                self._turn(gr.Button("Back"), place - 1)
            self._turn(gr.Button(forth, variant="primary"), place + 1)

    def _turn(self, button: gr.Button, place: int) -> None:
        button.click(lambda: gr.Walkthrough(selected=place), None, self.steps, **QUIET)


def build_create(services: Services, tabs: gr.Tabs) -> gr.Textbox:
    """Lay out the tab and tie its steps; return the field for a Hub token, which other tabs use too."""
    tab = CreateTab(services)
    form = tab.form
    started = gr.Textbox(visible="hidden", elem_id="started-run")

    @shows_errors
    def press_start(request: str, reviewed: Any, token_typed: str, *held: Any) -> tuple[str, Any]:
        values = form.values(held)
        if reviewed is None or reviewed["values"] != values or not reviewed["report"]["ok"]:
            raise ConfigError(
                "The form has changed since it was reviewed.", "Wait for the Review, and press Start again."
            )
        run = services.start(parse_config(values), services.token(token_typed), request)
        return run.run_id, gr.Tabs(selected="dashboard")

    def fill() -> list[Any]:
        return [gr.Walkthrough(selected=REVIEW), None, None, *form.show(try_it())]

    wire_data_step(tab.data, services, tab.steps, tab.token)
    changes = [tab.token.change, *(form[name].change for name in REVIEWED)]
    filled = [tab.steps, tab.data.upload, tab.data.measured, *form.components]
    _wire_review(tab, services, [tab.steps.change, *changes], tab.try_it.click(fill, None, filled, **QUIET))
    starting = tab.review.start.click(
        press_start,
        [started, tab.review.reviewed, *tab.held],
        [started, tabs],
        js=REQUEST_ID,
        show_progress="minimal",
        api_visibility="private",
    )
    starting.success(None, started, None, js=SHOW_RUN, api_visibility="private")
    return tab.token


def _wire_review(tab: CreateTab, services: Services, changes: list[Any], filled: Any) -> None:
    """Tie the Review: what is wrong is said at once, what needs the Hub and the machine after it."""
    form, step = tab.form, tab.review

    def wait() -> list[Any]:
        return [None, gr.update(interactive=False), gr.update(interactive=False), ""]

    def check(token_typed: str, *held: Any) -> list[Any]:
        values = form.values(held)
        verdict, whole, report = check_values(services, values, token_typed)
        return [verdict, whole, {"values": values, "report": report}, LOOKING if report else "", ""]

    def plan(checked: Any, token_typed: str, *held: Any) -> list[Any]:
        values = form.values(held)
        if not checked or checked["values"] != values:
            return [gr.skip()] * len(planned)  # A newer check is on its way.
        verdict, fit, doctor, report = plan_values(services, values, checked["report"], token_typed)
        can_start, can_measure = (
            gr.update(interactive=can) for can in (bool(report and report["ok"]), can_be_measured(report))
        )
        return [
            verdict or gr.skip(),
            fit,
            doctor,
            can_start,
            can_measure,
            report and {"values": values, "report": report},
        ]

    @shows_errors
    def measure(reviewed: Any, token_typed: str, *held: Any) -> Iterator[str]:
        fit = reviewed["report"]["fit"] if reviewed else None
        yield from measure_values(services, form.values(held), fit, token_typed)

    def press(event: gr.EventData) -> list[Any]:
        return pressed_changes(form, event)

    waiting = [step.reviewed, step.start, step.measure, step.measured]
    checked = [step.verdict, step.whole, step.checked, step.fit, step.doctor]
    planned = [step.verdict, step.fit, step.doctor, step.start, step.measure, step.reviewed]
    presses = [card.pressed(press, None, form.components, **QUIET) for card in (step.fit, step.doctor)]
    gr.on(changes, wait, None, waiting, **QUIET)
    checks = [gr.on(changes, check, tab.held, checked, trigger_mode="always_last", **QUIET)]
    for event in (filled, *presses):
        checks.append(event.then(wait, None, waiting, **QUIET).then(check, tab.held, checked, **QUIET))
    for event in checks:
        event.success(plan, [step.checked, *tab.held], planned, trigger_mode="multiple", **QUIET)
    step.measure.click(measure, [step.reviewed, *tab.held], step.measured, **QUEUED)


def _token_input(services: Services) -> gr.Textbox:
    known = "The token of this machine is used if this is empty." if services.settings.hub_token else ""
    with gr.Accordion("Hugging Face token (for gated models, private data, and publishing)", open=False):
        return gr.Textbox(
            label="Hub token",
            type="password",
            info=f"It is handed to the processes that need it and never stored. {known}".strip(),
            elem_id="hub-token",
        )
