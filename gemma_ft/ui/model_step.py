"""The Model step: cards of the catalogue by family, or any Gemma by its name.

Promises that what the cards say is reckoned for this machine when they are drawn, and that any id can be typed.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from gemma_ft.catalog import FAMILIES, find
from gemma_ft.config import DEMO_MODEL
from gemma_ft.monitor.hardware import this_machine
from gemma_ft.ui.form import Form
from gemma_ft.ui.model_cards import BASE, INSTRUCT, cards_html, offered
from gemma_ft.ui.present import count
from gemma_ft.ui.services import Services
from gemma_ft.ui.wiring import PRESSES, QUIET


class ModelStep:
    """The step's components, laid out when this is made inside the step."""

    def __init__(self, form: Form, services: Services) -> None:
        with gr.Row():
            self.family = gr.Radio(list(FAMILIES), value=FAMILIES[0], label="Family", elem_id="model-family")
            self.kind = gr.Radio(
                [INSTRUCT, BASE], value=INSTRUCT, label="Kind", elem_id="model-kind", scale=0, min_width=300
            )
        machine = this_machine(services.settings.home)
        shown = cards_html(offered(FAMILIES[0], INSTRUCT), DEMO_MODEL, machine)
        self.cards = gr.HTML(shown, js_on_load=PRESSES, apply_default_css=False, elem_id="model-cards")
        form["model.id"].render()
        about = gr.Markdown(describe_model(DEMO_MODEL), elem_classes="about")
        with gr.Accordion("More", open=False), gr.Row():
            form["model.revision"].render()
            form["model.precision"].render()

        def draw(family: str, kind: str, chosen: str) -> str:
            return cards_html(offered(family, kind), chosen, this_machine(services.settings.home))

        def press(event: gr.EventData) -> str:
            return str(json.loads(event.changes)["model.id"])

        def follow(chosen: str, family: str, kind: str) -> list[Any]:
            """Show the cards among which the model is that was chosen in another way."""
            model = find(chosen or "")
            if model is not None:
                family, kind = model.family, INSTRUCT if model.instruct else BASE
            return [describe_model(chosen), family, kind, draw(family, kind, chosen)]

        chosen = form["model.id"]
        self.cards.pressed(press, None, chosen, **QUIET)
        chosen.change(follow, [chosen, self.family, self.kind], [about, self.family, self.kind, self.cards], **QUIET)
        gr.on([self.family.input, self.kind.input], draw, [self.family, self.kind, chosen], self.cards, **QUIET)


def describe_model(model_id: str) -> str:
    """Return the facts on a model as one line of Markdown."""
    if not model_id:
        return "Choose a model."
    if (model := find(model_id)) is None:
        return "Not in the list: its configuration is read in the Review. It must be of the Gemma family."
    gate = f" Its licence must be accepted on [its page]({model.link})." if model.gated else ""
    offline = " Built on this machine on first use; needs no network." if model.id == DEMO_MODEL else ""
    return (
        f"**{count(model.shape.parameters)} parameters**, {model.layers} layers, "
        f"context of {model.context:,} tokens, {model.licence}.{gate}{offline}"
    )
