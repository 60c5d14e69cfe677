"""The Method step: one dial first, then every knob.

Promises that a preset only fills in what can be seen and changed on this step. Knobs that have no part in the chosen
method are not shown.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from gemma_ft.config import RunConfig, parse_config
from gemma_ft.estimate.presets import LABELS, PRESETS
from gemma_ft.reactions import AlertsConfig
from gemma_ft.ui.form import Form, flatten
from gemma_ft.ui.present import escape
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import QUEUED, QUIET, shows_errors

PACE = ("epochs", "max_steps", "learning_rate")
BATCH = ("batch_size", "accumulation", "max_length")
ADAPTER = ("rank", "alpha", "dropout", "targets", "dora", "rslora")
PREFERENCE = ("beta", "loss")
GROUPS = {
    "Learning: schedule, optimizer, regularisation": (
        ("schedule", "warmup_fraction", "optimizer"),
        ("weight_decay", "max_grad_norm", "neftune_alpha"),
    ),
    "Memory and speed": (("gradient_checkpointing", "packing"), ("on_out_of_memory", "seed")),
    "Measuring, saving, stopping": (
        ("log_every", "eval_every", "save_every"),
        ("keep_checkpoints", "early_stopping", "keep_best"),
    ),
}
ALERTS = tuple(AlertsConfig.model_fields)
ALERTS_IN_A_ROW = 3
ABOUT_ALERTS = (
    "A run is watched whether this page is open or not, and every alert is told. Besides that it can save a checkpoint "
    "and go on, or stop, which saves one first."
)


class MethodStep:
    """The step's components, laid out when this is made inside the step."""

    def __init__(self, form: Form, services: Services, token: gr.Textbox) -> None:
        self.dial = gr.Radio(
            [(LABELS[name], name) for name in PRESETS],
            value=None,
            label="Fill everything in",
            info="For this model, this data and this machine. Every knob below can be changed afterwards.",
            elem_id="preset",
        )
        self.filled = gr.Markdown(elem_classes="about", elem_id="preset-filled")
        _knobs(form, "method", ("objective",))
        with gr.Row():
            _knobs(form, "method", PREFERENCE)
        _knobs(form, "method", ("adapter",))
        with gr.Row() as adapter_knobs:
            _knobs(form, "method", ADAPTER)
        with gr.Row():
            _knobs(form, "training", PACE)
        with gr.Row():
            _knobs(form, "training", BATCH)
        for title, rows in GROUPS.items():
            with gr.Accordion(title, open=False):
                for row in rows:
                    with gr.Row():
                        _knobs(form, "training", row)
        with gr.Accordion("What alerts do", open=False):
            gr.Markdown(ABOUT_ALERTS, elem_classes="about")
            for first in range(0, len(ALERTS), ALERTS_IN_A_ROW):
                with gr.Row():
                    _knobs(form, "alerts", ALERTS[first : first + ALERTS_IN_A_ROW])
        with gr.Accordion("Several GPUs", open=False):
            _knobs(form, "compute", ("processes", "sharding"))
        with gr.Accordion("Questions to ask while it trains", open=False), gr.Row():
            _knobs(form, "evaluation", ("prompts", "max_new_tokens"))

        @shows_errors
        def turn(name: str, token_typed: str, *held: Any) -> list[Any]:
            values, token = services.admitted(form.values(held)), services.token(token_typed)
            report = services.inspector.check(values, token)
            filled = flatten(parse_config(services.inspector.preset(name, values, report, token)))
            before = flatten(parse_config(values))
            changes = {path: value for path, value in filled.items() if value != before[path]}
            said = in_words(parse_config(values).changed(changes))
            return [None, f"**{LABELS[name]}**: {escape(said)}", *form.change(changes)]  # type: ignore[index]

        held = [token, *form.components]
        filled = [self.dial, self.filled, *form.components]
        self.dial.input(turn, [self.dial, *held], filled, trigger_mode="always_last", **QUEUED)
        preferences = [form[f"method.{name}"] for name in PREFERENCE]
        form["method.objective"].change(
            lambda objective: [gr.update(visible=objective == "dpo")] * len(PREFERENCE),
            form["method.objective"],
            preferences,
            **QUIET,
        )
        form["method.adapter"].change(
            lambda adapter: gr.update(visible=adapter != "none"), form["method.adapter"], adapter_knobs, **QUIET
        )


def in_words(config: RunConfig) -> str:
    """Say in one line what a config does."""
    method, training = config.method, config.training
    how = {"lora": "LoRA", "qlora": "QLoRA", "none": "every weight"}[method.adapter]
    rank = f" of rank {method.rank}" if method.adapter != "none" else ""
    long = f"{training.max_steps:,} steps" if training.max_steps else f"{training.epochs:g} passes over the data"
    added = f" x {training.accumulation}" if training.accumulation > 1 else ""
    return (
        f"{how}{rank}, learning rate {training.learning_rate:g}, {long}, batches of {training.batch_size}{added} rows, "
        f"up to {training.max_length:,} tokens."
    )


def _knobs(form: Form, section: str, names: tuple[str, ...]) -> None:
    for name in names:
        form[f"{section}.{name}"].render()
