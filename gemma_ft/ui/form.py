"""The form: one input for each knob of `RunConfig`, made from the knob's own declaration.

Promises that what is on the screen becomes a config and a config becomes what is on the screen, without a second list
of names, ranges or help texts. Does not lay anything out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from pydantic.fields import FieldInfo

from gemma_ft.catalog import CATALOG
from gemma_ft.config import RunConfig, choices, knobs
from gemma_ft.data.sources import EXAMPLES

LABELS = {
    "name": "Name of the run",
    "model.id": "Model",
    "model.precision": "Precision",
    "data.source": "Where the data comes from",
    "data.id": "Example",
    "data.config": "Configuration",
    "data.split": "Split to train on",
    "data.validation_split": "Split to measure with",
    "data.path": "File or folder on this machine",
    "data.validation_path": "Second file on this machine, to measure with",
    "data.drop_bad_rows": "Leave out rows that cannot be used",
    "data.format": "Format of the rows",
    "data.seed": "Seed of the split",
    "method.adapter": "Method",
    "method.loss": "Loss of DPO",
    "method.dora": "DoRA",
    "method.rslora": "rsLoRA",
    "training.neftune_alpha": "NEFTune",
    "training.on_out_of_memory": "When memory runs out",
    "compute.processes": "GPUs together",
    "compute.sharding": "Spread the weights",
    "evaluation.prompts": "Questions to ask while it trains (one a line)",
    "evaluation.max_new_tokens": "Longest answer",
    "alerts.not_finite": "Numbers not finite",
    "alerts.gpu_memory_full": "GPU memory full",
    "alerts.gpu_throttled": "GPU too hot",
    "alerts.gpu_idle": "GPU idle",
    "alerts.stalled": "No sign of life",
    "alerts.hub_unreachable": "Hub unreachable",
    "publish.repo": "Hub repository",
    "publish.private": "Private repository",
    "notify.url": "ntfy topic or webhook",
    "notify.when": "Tell",
}
OPTIONS: dict[str, list[tuple[str, str]]] = {
    "model.id": [(model.label, model.id) for model in CATALOG],
    "data.source": [
        ("Bundled example", "example"),
        ("A file of mine", "file"),
        ("Hugging Face Hub", "hub"),
        ("TensorFlow Datasets", "tfds"),
    ],
    "data.id": [(name.capitalize(), name) for name in EXAMPLES],
    "data.config": [],
    "data.split": [("train", "train")],
    "data.validation_split": [],
    "method.objective": [("Supervised: learn the answers", "sft"), ("DPO: learn which answer is better", "dpo")],
    "method.adapter": [
        ("LoRA: a small adapter", "lora"),
        ("QLoRA: an adapter, the model in 4 bits", "qlora"),
        ("Standard: every weight", "none"),
    ],
    "training.on_out_of_memory": [("Go on with smaller batches", "smaller_batch"), ("Stop with an error", "stop")],
    "notify.when": [("Only problems", "problems"), ("Problems and finished runs", "ended"), ("Every end", "all")],
}
TYPED = {"model.id", "data.id", "data.config", "data.split", "data.validation_split"}
"""Knobs with choices to pick from where anything else can be typed too."""
HIDDEN_AT_FIRST = {"data.config", "data.columns", "method.beta", "method.loss"}
LEFT_OUT = {"compute.where"}
"""Knobs that have one choice."""


class Form:
    """The inputs by the names of their knobs, in a fixed order."""

    def __init__(self) -> None:
        self._declared = {path: declared for path, declared in knobs() if path not in LEFT_OUT}
        defaults = flatten(RunConfig())
        self.inputs = {path: make_input(path, declared, defaults[path]) for path, declared in self._declared.items()}

    def __getitem__(self, path: str) -> Any:
        return self.inputs[path]

    @property
    def components(self) -> list[Any]:
        """All inputs, in the order in which `values` expects what they hold."""
        return list(self.inputs.values())

    def values(self, held: Sequence[Any]) -> dict[str, Any]:
        """Return what all inputs hold, in order, as the nested values of a config; not yet checked."""
        return self.nest(dict(zip(self._declared, held, strict=True)))

    def nest(self, held: Mapping[str, Any]) -> dict[str, Any]:
        """Return what some inputs hold, by their knobs' names, as the nested values of a config; not yet checked."""
        nested: dict[str, Any] = {}
        for path, value in held.items():
            section, _, name = path.rpartition(".")
            place = nested.setdefault(section, {}) if section else nested
            place[name] = _from_input(self._declared[path], value)
        return nested

    def change(self, changes: Mapping[str, Any]) -> list[Any]:
        """Return the inputs' values, in order, after changes of some knobs; the others stay. Unknown names are left."""
        known = {path: _to_input(value) for path, value in changes.items()}
        return [known.get(path, gr.skip()) for path in self._declared]

    def show(self, config: RunConfig) -> list[Any]:
        """Return the inputs' values for a config, in order."""
        flat = flatten(config)
        return [flat[path] for path in self._declared]


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return what each input shows for a config, by the knob's name."""
    plain = config.model_dump(mode="json")
    flat: dict[str, Any] = {}
    for path, _ in knobs():
        section, _, name = path.rpartition(".")
        value = plain[section][name] if section else plain[name]
        flat[path] = _to_input(value)
    return flat


def make_input(path: str, declared: FieldInfo, default: Any) -> Any:
    """Return the input for a knob, not yet placed on the page."""
    extra = declared.json_schema_extra
    unit = str(extra.get("unit", "")) if isinstance(extra, Mapping) else ""
    label = LABELS.get(path) or path.rpartition(".")[2].replace("_", " ").capitalize()
    shared = {
        "label": f"{label} ({unit})" if unit and len(unit) < 14 else label,
        "info": declared.description,
        "elem_id": path.replace(".", "-").replace("_", "-"),
        "render": False,
    }
    if path == "data.columns":
        return gr.Textbox(value=default, visible="hidden", **shared)
    shared["visible"] = path not in HIDDEN_AT_FIRST
    if path in TYPED:
        return gr.Dropdown(OPTIONS[path], value=default, allow_custom_value=True, **shared)
    if path in OPTIONS:
        return gr.Radio(OPTIONS[path], value=default, **shared)
    if options := choices(declared):
        return gr.Dropdown(list(options), value=default, **shared)
    if declared.annotation is bool:
        return gr.Checkbox(value=default, **shared)
    if declared.annotation in (str, str | None):
        return gr.Textbox(value=default, **shared)
    if path == "evaluation.prompts":
        return gr.Textbox(value=default, lines=3, **shared)
    # No bounds here: the config's own check says more about a bad value than Gradio would.
    return gr.Number(value=default, precision=0 if declared.annotation in (int, int | None) else None, **shared)


def _to_input(value: Any) -> Any:
    """Return a config's value as its input shows it: lists one a line, mappings as JSON."""
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False) if value else ""
    return "\n".join(value) if isinstance(value, list) else value


def _from_input(declared: FieldInfo, value: Any) -> Any:
    """Return an input's value as the config expects it: a field that may be empty, and is, becomes `None`.

    A browser sends 0 for an empty number.
    """
    if declared.annotation in (str | None, int | None) and not value:
        return None
    if declared.annotation is str and value is None:
        return declared.default
    if declared.annotation == dict[str, str]:
        return json.loads(value) if value else {}
    if declared.annotation == tuple[str, ...]:
        return tuple(line.strip() for line in str(value or "").splitlines() if line.strip())
    return value.strip() if isinstance(value, str) else value
