"""Machines and workloads that the tests of the estimates share."""

from __future__ import annotations

from typing import Any

from gemma_ft.catalog import CATALOG, CatalogModel
from gemma_ft.config import MethodConfig, ModelConfig, RunConfig, TrainingConfig
from gemma_ft.estimate.flavours import FLAVOURS
from gemma_ft.estimate.workload import Workload
from gemma_ft.hardware import Machine
from gemma_ft.shape import ModelShape

SIZES: dict[ModelShape, CatalogModel] = {model.shape: model for model in CATALOG}
"""One model of each size."""
ROWS = Workload(train_rows=1000, longest=700, mean_tokens=300.0, mean_supervised=150.0, measured=True)


def shape(model_id: str) -> ModelShape:
    return next(model.shape for model in CATALOG if model.id == model_id)


def machine(flavour: str) -> Machine:
    return next(each.machine for each in FLAVOURS if each.name == flavour)


def config(**knobs: Any) -> RunConfig:
    """Return a config with these knobs of the model, the method and the training."""

    def part(section: Any) -> dict[str, Any]:
        return {name: value for name, value in knobs.items() if name in section.model_fields}

    assert all(any(name in s.model_fields for s in (ModelConfig, MethodConfig, TrainingConfig)) for name in knobs)
    return RunConfig.model_validate(
        {"model": part(ModelConfig), "method": part(MethodConfig), "training": part(TrainingConfig)}
    )
