"""The Create tab: Model, Data, Method, Review, Start; and *Try it*, which fills all of it in.

Promises that nothing starts before the whole configuration was on the screen, that what is wrong is said in the
Review with a remedy, and that the form keeps what was typed whatever goes wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from gemma_ft.catalog import find
from gemma_ft.check import plan, refused
from gemma_ft.config import DEMO_MODEL, RunConfig, parse_config
from gemma_ft.errors import ConfigError
from gemma_ft.recipes import try_it
from gemma_ft.ui.data_step import DataStep, wire_data_step
from gemma_ft.ui.form import Form
from gemma_ft.ui.present import count, escape, problems_markdown
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import QUIET, shows_errors
from gemma_ft.ui.xray_view import summary

MODEL, DATA, METHOD, REVIEW = 1, 2, 3, 4
WELCOME = """### Tune a Gemma on your own examples
Pick a Gemma, bring questions and answers, and watch it learn them on the Dashboard.<br>
Then talk to the base and the tuned model side by side in the Playground, and publish the result.<br>
**New here?** *Try it* fills everything in: a tiny Gemma that learns 50 capitals in about a minute, on any computer."""
SHOW_RUN = "(run) => { window.gemmaWantedRun = run; window.gemmaDashboard?.show(run); }"


class CreateTab:
    """The tab's components, laid out when this is made inside the tab."""

    def __init__(self, services: Services) -> None:
        self.form = Form()
        with gr.Row(elem_classes="welcome", equal_height=True):
            gr.Markdown(WELCOME)
            self.try_it = gr.Button("Try it", variant="primary", elem_id="try-button", min_width=120, scale=0)
        with gr.Walkthrough(selected=MODEL, elem_id="create-steps") as self.steps:
            with gr.Step("Model", id=MODEL):
                _model_step(self.form)
                self.token = _token_input(services)
                self._moves(None, "Next: Data", MODEL)
            with gr.Step("Data", id=DATA):
                self.data = DataStep(self.form, services)
                self._moves("Back", "Next: Method", DATA)
            with gr.Step("Method", id=METHOD):
                _method_step(self.form)
                self._moves("Back", "Next: Review", METHOD)
            with gr.Step("Review", id=REVIEW):
                self.verdict = gr.Markdown(elem_id="review-verdict")
                self.form["name"].render()
                _publish_section(self.form)
                with gr.Row(elem_classes="button-row"):
                    self._back(REVIEW)
                    self.start = gr.Button(
                        "Start training", variant="primary", elem_id="start-button", interactive=False
                    )
                self.whole = gr.Code(
                    language="yaml", label="The whole configuration", elem_id="review-config", interactive=False
                )

    @property
    def held(self) -> list[Any]:
        """The token and every input, as the handlers get them."""
        return [self.token, *self.form.components]

    def _moves(self, back: str | None, forth: str, place: int) -> None:
        with gr.Row(elem_classes="button-row"):
            if back:
                self._back(place)
            button = gr.Button(forth, variant="primary")
        button.click(lambda: gr.Walkthrough(selected=place + 1), None, self.steps, **QUIET)

    def _back(self, place: int) -> None:
        gr.Button("Back").click(lambda: gr.Walkthrough(selected=place - 1), None, self.steps, **QUIET)


def build_create(services: Services, tabs: gr.Tabs) -> gr.Textbox:
    """Lay out the tab and tie its steps; return the field for a Hub token, which other tabs use too."""
    tab = CreateTab(services)
    form = tab.form
    started = gr.Textbox(visible="hidden", elem_id="started-run")

    @shows_errors
    def review(token_typed: str, *held: Any) -> tuple[str, str, Any]:
        return review_values(services, form.values(held), token_typed)

    @shows_errors
    def press_start(token_typed: str, *held: Any) -> tuple[str, Any]:
        run = services.start(parse_config(form.values(held)), services.token(token_typed))
        return run.run_id, gr.Tabs(selected="dashboard")

    def fill() -> list[Any]:
        return [gr.Walkthrough(selected=REVIEW), None, None, *form.show(try_it())]

    wire_data_step(tab.data, services, tab.steps, tab.token)
    reviewed: dict[str, Any] = {"inputs": tab.held, "outputs": [tab.verdict, tab.whole, tab.start], **QUIET}
    changes = [tab.token.change, *(form[name].change for name in ("name", "publish.repo", "publish.private"))]
    gr.on([tab.steps.change, *changes], review, trigger_mode="always_last", **reviewed)
    filled = [tab.steps, tab.data.upload, tab.data.measured, *form.components]
    tab.try_it.click(fill, None, filled, **QUIET).then(review, **reviewed)
    starting = tab.start.click(
        press_start, tab.held, [started, tabs], show_progress="minimal", api_visibility="private"
    )
    starting.success(None, started, None, js=SHOW_RUN, api_visibility="private")
    return tab.token


def review_values(services: Services, values: dict[str, Any], token_typed: str) -> tuple[str, str, Any]:
    """Return the verdict in Markdown, the configuration as YAML, and whether Start can be pressed."""
    try:
        admitted = services.admitted(values)
    except ConfigError as exc:
        problems = problems_markdown(refused(exc)["problems"])
        return f"### Not ready yet\n\n{problems}", "", gr.update(interactive=False)
    config = parse_config(values)
    report = services.inspector.check(admitted, services.token(token_typed))
    lines = [f"### {'Ready to start' if report['ok'] else 'Not ready yet'}", problems_markdown(report["problems"])]
    if (data := report["data"]) and data["train_rows"]:
        lines.append(_plan_in_words(config, data))
    if report["xray"]:
        lines.append(f"**X-ray**: {escape(summary(report['xray']))}")
    return "\n\n".join(line for line in lines if line), config.to_yaml(), gr.update(interactive=report["ok"])


def _plan_in_words(config: RunConfig, data: Mapping[str, Any]) -> str:
    """Say what will be trained; of data of which only the first rows are known, about how much."""
    train_rows, held_out = data["expected"]
    about = "" if data["complete"] else "about "
    batch = config.training.batch_size * config.training.accumulation
    steps = plan(config, train_rows)
    return (
        f"**{escape(config.model.id)}** learns from **{about}{train_rows:,} rows** ({held_out:,} held out) "
        f"in **{steps:,} steps** of {batch} rows, about {steps * batch / train_rows:.1f} passes over the data."
    )


def describe_model(model_id: str) -> str:
    """Return the facts on a model as one line of Markdown."""
    if not model_id:
        return "Choose a model."
    if (model := find(model_id)) is None:
        return "Not in the list: its configuration is read when the run starts; it must be a Gemma."
    gate = f" Its licence must be accepted on [its page](https://huggingface.co/{model.id})." if model.gated else ""
    offline = " Built on this machine on first use; needs no network." if model.id == DEMO_MODEL else ""
    return (
        f"**{count(model.parameters * 1e9)} parameters**, {model.layers} layers, "
        f"context of {model.context:,} tokens, {model.licence}.{gate}{offline}"
    )


def _model_step(form: Form) -> None:
    form["model.id"].render()
    about = gr.Markdown(describe_model(DEMO_MODEL), elem_classes="about")
    form["model.id"].change(describe_model, form["model.id"], about, **QUIET)
    with gr.Accordion("More", open=False), gr.Row():
        form["model.revision"].render()
        form["model.precision"].render()


def _method_step(form: Form) -> None:
    form["method.objective"].render()
    form["method.beta"].render()
    form["method.adapter"].render()
    with gr.Row() as adapter_knobs:
        for name in ("rank", "alpha", "dropout"):
            form[f"method.{name}"].render()
    with gr.Row():
        for name in ("epochs", "max_steps", "learning_rate"):
            form[f"training.{name}"].render()
    with gr.Row():
        for name in ("batch_size", "accumulation", "max_length"):
            form[f"training.{name}"].render()
    with gr.Accordion("More", open=False):
        with gr.Row():
            for name in ("schedule", "warmup_fraction", "weight_decay", "max_grad_norm"):
                form[f"training.{name}"].render()
        with gr.Row():
            for name in ("log_every", "eval_every", "save_every", "keep_checkpoints"):
                form[f"training.{name}"].render()
        with gr.Row():
            for name in ("seed", "gradient_checkpointing"):
                form[f"training.{name}"].render()
        with gr.Row():
            for name in ("prompts", "max_new_tokens"):
                form[f"evaluation.{name}"].render()
    form["method.objective"].change(
        lambda objective: gr.update(visible=objective == "dpo"), form["method.objective"], form["method.beta"], **QUIET
    )
    form["method.adapter"].change(
        lambda adapter: gr.update(visible=adapter == "lora"), form["method.adapter"], adapter_knobs, **QUIET
    )


def _publish_section(form: Form) -> None:
    with gr.Accordion("Publish to the Hugging Face Hub (optional)", open=False):
        form["publish.repo"].render()
        form["publish.private"].render()


def _token_input(services: Services) -> gr.Textbox:
    known = "The token of this machine is used if this is empty." if services.settings.hub_token else ""
    with gr.Accordion("Hugging Face token (for gated models, private data, and publishing)", open=False):
        return gr.Textbox(
            label="Hub token",
            type="password",
            info=f"It is handed to the processes that need it and never stored. {known}".strip(),
            elem_id="hub-token",
        )
