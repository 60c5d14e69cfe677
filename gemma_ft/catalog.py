"""The Gemma models that the page offers by name, with the figures from which their memory and time are reckoned.

They stand in `catalog.yaml`, one entry for each size: ids, licence and configuration by hand, the shape counted by
`python -m gemma_ft.train.inspection`. Promises that ids are unique and that the figures are those of the configuration
beside them (a test builds every model). The list does not limit anybody: any Gemma on the Hub, or a local folder, can
be typed instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gemma_ft.config import DEMO_MODEL
from gemma_ft.shape import LinearGroup, ModelShape

FILE = Path(__file__).with_name("catalog.yaml")
COUNTED = "\nshapes:\n"
"""Where the figures begin that are counted and not written by hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogModel:
    """One model as it is offered. `size` is as its makers call it; `instruct` says that it was taught to converse."""

    id: str
    label: str
    family: str
    size: str
    instruct: bool
    licence: str
    gated: bool
    shape: ModelShape

    @property
    def parameters(self) -> float:
        """All its weights, towers included, in billions; `shape.parameters` has the exact count."""
        return self.shape.parameters / 1e9

    @property
    def layers(self) -> int:
        """Layers of its language model."""
        return self.shape.layers

    @property
    def context(self) -> int:
        """The longest text it can bear, in tokens."""
        return self.shape.context

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it takes in: text, and for some image and audio; it is tuned with text only."""
        return self.shape.modalities

    @property
    def link(self) -> str:
        """Its page on the Hub; empty for the demo, which is built on this machine."""
        return "" if self.id == DEMO_MODEL else f"https://huggingface.co/{self.id}"


def find(model_id: str) -> CatalogModel | None:
    """Return the catalogue's entry for this id, or `None` for a model that is not listed."""
    return BY_ID.get(model_id)


def configs() -> dict[str, dict[str, Any]]:
    """Return the configuration of each size, by family and size, such as `Gemma 3 270M`."""
    return {_name(entry): entry["config"] for entry in _read()["models"]}


def write_shapes(shapes: Mapping[str, ModelShape]) -> None:
    """Replace the figures in the file; what is written by hand stays."""
    by_hand = FILE.read_text(encoding="utf-8").partition(COUNTED)[0]
    plain = {name: {**asdict(shape), "modalities": list(shape.modalities)} for name, shape in shapes.items()}
    counted = yaml.safe_dump({"shapes": plain}, sort_keys=False, default_flow_style=None, width=120)
    FILE.write_text(f"{by_hand}\n{counted}", encoding="utf-8")


def _read() -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    values: dict[str, Any] = yaml.load(FILE.read_text(encoding="utf-8"), Loader=loader)
    return values


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['family']} {entry['size']}"


def _models() -> Iterator[CatalogModel]:
    """Yield the models; one that was added by hand is offered as soon as it is counted."""
    values = _read()
    counted = values.get("shapes", {})
    for entry in values["models"]:
        if _name(entry) not in counted:
            continue
        shape = _shape(counted[_name(entry)])
        for kind, model_id in entry["ids"].items():
            taught = {"instruct": "instruction-tuned", "base": "base"}[kind]
            yield CatalogModel(
                id=model_id,
                label=entry.get("label", f"{_name(entry)} {taught}"),
                family=entry["family"],
                size=entry["size"],
                instruct=kind == "instruct",
                licence=entry["licence"],
                gated=entry["gated"],
                shape=shape,
            )


def _shape(figures: dict[str, Any]) -> ModelShape:
    groups = {name: LinearGroup(**figures[name]) for name in ("attention", "mlp")}
    return ModelShape(**{**figures, **groups, "modalities": tuple(figures["modalities"])})


CATALOG = tuple(_models())
"""All models, the offline demo first, then the newest family first and in it the smallest size first."""
BY_ID = {model.id: model for model in CATALOG}
FAMILIES = tuple(dict.fromkeys(model.family for model in CATALOG))
"""The families in the order of the catalogue."""
