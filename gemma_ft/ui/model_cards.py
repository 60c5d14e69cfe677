"""The catalogue as cards: what each Gemma is, and what it takes to tune it on this machine. Pure functions, HTML out.

Promises that the figures are those of the catalogue and of `estimate`; what they suppose is said beside them. A card
is a button that carries the change it makes (`wiring.PRESSES`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from gemma_ft.catalog import CATALOG, CatalogModel
from gemma_ft.config import DEMO_MODEL, MethodConfig, RunConfig, TrainingConfig
from gemma_ft.estimate.memory import Fits, estimate_memory
from gemma_ft.estimate.workload import Workload
from gemma_ft.hardware import Machine
from gemma_ft.shape import ModelShape
from gemma_ft.ui.present import count, size

INSTRUCT, BASE = "Instruction-tuned", "Base"
LENGTH = 1024
SUPPOSED = f"Memory: batches of 1, rows of up to {LENGTH:,} tokens, activations computed twice."
METHODS = (("QLoRA", "qlora"), ("LoRA", "lora"), ("Full", "none"))
FITS: dict[Fits, str] = {"fits": "fits", "tight": "tight", "no": "does not fit"}
SENSES = {"text": "text", "image": "images", "audio": "audio"}


def offered(family: str, kind: str) -> list[CatalogModel]:
    """Return the models of a family, those that converse or those that only go on writing."""
    found = [model for model in CATALOG if model.family == family]
    return [model for model in found if model.instruct == (kind == INSTRUCT)] or found


def cards_html(models: Sequence[CatalogModel], chosen: str, machine: Machine) -> str:
    """Return a card for each of the models; the chosen one is marked."""
    where = escape(machine.name)
    cards = "".join(_card(model, machine, chosen=model.id == chosen) for model in models)
    return f'<div class="model-cards">{cards}</div><p class="hint">On this machine ({where}). {SUPPOSED}</p>'


def needs(shape: ModelShape, machine: Machine) -> list[tuple[str, int, Fits]]:
    """Return the likely bytes of each method on a machine, and whether they are there; see `SUPPOSED`."""
    found = []
    for name, adapter in METHODS:
        method = MethodConfig(adapter=adapter)  # type: ignore[arg-type]
        training = TrainingConfig(batch_size=1, max_length=min(LENGTH, shape.context), gradient_checkpointing="on")
        config = RunConfig(method=method, training=training)
        memory = estimate_memory(config, shape, Workload.assumed(config, 1000), machine)
        found.append((name, memory.likely, memory.fits))
    return found


def _card(model: CatalogModel, machine: Machine, *, chosen: bool) -> str:
    shape = model.shape
    changes = escape(json.dumps({"model.id": model.id}), quote=True)
    takes = " + ".join(SENSES[sense] for sense in shape.modalities)
    context = f"{shape.context // 1024}K" if shape.context % 1024 == 0 else f"{shape.context:,}"
    methods = "".join(
        f'<li data-fits="{fits}"><span>{name}</span> <b>{size(likely)}</b> <i>{FITS[fits]}</i></li>'
        for name, likely, fits in needs(shape, machine)
    )
    gate = "licence to accept" if model.gated else "no gate"
    page = ""
    if model.id != DEMO_MODEL:
        page = f' · <a href="{escape(model.link, quote=True)}" target="_blank" rel="noopener">page</a>'
    return (
        f'<div class="model-card{" chosen" if chosen else ""}">'
        f'<button type="button" data-changes="{changes}" aria-pressed="{str(chosen).lower()}">'
        f"<b>{escape(model.label)}</b>"
        f"<span>{count(shape.parameters)} parameters, {shape.layers} layers</span>"
        f"<span>{context} tokens of context, reads {takes}</span></button>"
        f'<ul class="needs">{methods}</ul>'
        f'<p class="hint">{escape(model.licence)}, {gate}{page}</p></div>'
    )
