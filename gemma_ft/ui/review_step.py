"""The Review step: what is wrong, whether it will run, what the Doctor says, and the whole configuration.

Promises that nothing can be started that is known to fail, and that a press on a remedy changes the form and nothing
else. A measurement runs in a process of its own, which is thrown away afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from gemma_ft.check import refused
from gemma_ft.config import RunConfig, parse_config
from gemma_ft.errors import GemmaFtError
from gemma_ft.ui.fit_view import doctor_html, fit_html, measured_html
from gemma_ft.ui.form import Form
from gemma_ft.ui.notify_step import NotifyStep
from gemma_ft.ui.present import escape, problems_markdown
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import PRESSES
from gemma_ft.ui.xray_view import summary

LOOKING = '<div class="fit"><p class="hint">Reckoning …</p></div>'


class ReviewStep:
    """The step's components, laid out when this is made inside the step."""

    def __init__(self, form: Form, services: Services) -> None:
        self.verdict = gr.Markdown(elem_id="review-verdict")
        form["name"].render()
        self.fit = gr.HTML(js_on_load=PRESSES, apply_default_css=False, elem_id="review-fit")
        self.measured = gr.HTML(apply_default_css=False, elem_id="review-measured")
        with gr.Row(elem_classes="button-row"):
            self.measure = gr.Button("Measure: three real steps", elem_id="measure-button", interactive=False)
        self.doctor = gr.HTML(js_on_load=PRESSES, apply_default_css=False, elem_id="review-doctor")
        with gr.Accordion("Publish to the Hugging Face Hub (optional)", open=False):
            form["publish.repo"].render()
            form["publish.private"].render()
        NotifyStep(form, services)
        with gr.Row(elem_classes="button-row"):
            self.back = gr.Button("Back")
            self.start = gr.Button("Start training", variant="primary", elem_id="start-button", interactive=False)
        self.whole = gr.Code(
            language="yaml", label="The whole configuration", elem_id="review-config", interactive=False
        )
        self.checked = gr.State(None)
        self.reviewed = gr.State(None)


def check_values(services: Services, values: dict[str, Any], token_typed: str | None) -> tuple[str, str, Any]:
    """Return the verdict in Markdown, the configuration as YAML, and the check's report (`None` when there is none)."""
    try:
        admitted = services.admitted(values)
        config = parse_config(values)
        report = services.inspector.check(admitted, services.token(token_typed))
    except GemmaFtError as exc:
        return f"### Not ready yet\n\n{problems_markdown(refused(exc)['problems'])}", "", None
    heading = "Checking" if report["ok"] else "Not ready yet"
    kept_back = "# notify.url is set; it is not shown.\n" if config.notify.url else ""
    return _verdict(heading, config, report), kept_back + config.to_yaml(), report


def plan_values(
    services: Services, values: dict[str, Any], report: Any, token_typed: str | None
) -> tuple[str, str, str, Any]:
    """Return the verdict, the fit and the Doctor's card as HTML, and the completed report (`None` when there is none).

    `report` is that of `check_values` for the same values.
    """
    if report is None:
        return "", "", "", None
    config = parse_config(values)
    try:
        whole = services.inspector.complete(services.admitted(values), report, services.token(token_typed))
    except GemmaFtError as exc:
        return f"### Not ready yet\n\n{problems_markdown(refused(exc)['problems'])}", "", "", None
    said = _verdict("Ready to start" if whole["ok"] else "Not ready yet", config, whole)
    return said, fit_html(whole["fit"]), doctor_html(whole["doctor"]), whole


def can_be_measured(report: Any) -> bool:
    """Tell whether three steps of a run can be tried: it may start, and what it needs is probably there."""
    return bool(report and report["ok"] and report["fit"] and report["fit"]["memory"]["fits"] != "no")


def measure_values(
    services: Services, values: dict[str, Any], fit: Mapping[str, Any] | None, token_typed: str | None
) -> Iterator[str]:
    """Yield what there is to show of a measurement while it goes on, and its figures at last. Raises our errors."""
    admitted, token = services.admitted(values), services.token(token_typed)
    loading = '<div class="fit measured"><p class="hint">Fetching and loading the model …</p></div>'
    yield loading
    with services.measuring() as measurer:
        for answer in measurer.measuring(admitted, token):
            if answer["event"] == "progress":
                step = f'<div class="fit measured"><p class="hint">Step {answer["rows"]} of 3 …</p></div>'
                yield step if answer["rows"] else loading
            elif answer["event"] == "end":
                yield measured_html(answer, fit)


def pressed_changes(form: Form, event: gr.EventData) -> list[Any]:
    """Return the form's values after a press on a button that carries changes."""
    return form.change(json.loads(event.changes))


def _verdict(heading: str, config: RunConfig, report: Mapping[str, Any]) -> str:
    lines = [f"### {heading}", problems_markdown(report["problems"]), *_told(config, report)]
    return "\n\n".join(line for line in lines if line)


def _told(config: RunConfig, report: Mapping[str, Any]) -> list[str]:
    """Say what will be trained, as far as the check found it out."""
    lines = []
    if (data := report["data"]) and data["train_rows"]:
        lines.append(_plan_in_words(config, data, report.get("fit")))
    if report["xray"]:
        lines.append(f"**X-ray**: {escape(summary(report['xray']))}")
    return lines


def _plan_in_words(config: RunConfig, data: Mapping[str, Any], fit: Mapping[str, Any] | None) -> str:
    """Say what will be trained; of data of which only the first rows are known, about how much."""
    train_rows, held_out = data["expected"]
    about = "" if data["complete"] else "about "
    said = f"**{escape(config.model.id)}** learns from **{about}{train_rows:,} rows** ({held_out:,} held out)"
    if fit is None:
        return f"{said}."
    steps, batch = fit["plan"]["steps"], config.training.batch_size * config.training.accumulation
    places = "packed sequences" if config.training.packing else "rows"
    return f"{said} in **{steps:,} steps** of {batch} {places}."
