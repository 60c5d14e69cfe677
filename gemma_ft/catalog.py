"""The Gemma models that the page offers by name.

Figures are those of the published configurations. The list does not limit anybody: any Gemma on the Hub, or a local
folder, can be typed instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemma_ft.config import DEMO_MODEL


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogModel:
    """One model as it is offered: `parameters` in billions, `context` in tokens."""

    id: str
    label: str
    parameters: float
    layers: int
    context: int
    licence: str
    gated: bool


CATALOG = (
    CatalogModel(
        id=DEMO_MODEL,
        label="Gemma 3 tiny (offline demo)",
        parameters=0.0012,
        layers=4,
        context=1024,
        licence="Apache-2.0",
        gated=False,
    ),
    *(
        CatalogModel(
            id=f"google/gemma-3-{size}-it",
            label=f"Gemma 3 {size.upper()} instruction-tuned",
            parameters=parameters,
            layers=layers,
            context=context,
            licence="Gemma terms",
            gated=True,
        )
        for size, parameters, layers, context in (
            ("270m", 0.268, 18, 32_768),
            ("1b", 1.0, 26, 32_768),
            ("4b", 4.3, 34, 131_072),
            ("12b", 12.187, 48, 131_072),
            ("27b", 27.432, 62, 131_072),
        )
    ),
)


def find(model_id: str) -> CatalogModel | None:
    """Return the catalogue's entry for this id, or `None` for a model that is not listed."""
    return next((model for model in CATALOG if model.id == model_id), None)
