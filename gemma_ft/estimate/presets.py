"""Four sensible ways to tune, filled in for a model, its data and a machine.

Promises valid configurations that keep the model, the data, the objective, the questions, the name and where the result
goes; and that fit the machine if anything does. The figures are rules of thumb from the documentation of TRL, PEFT and
from https://arxiv.org/abs/2106.09685 and https://arxiv.org/abs/2305.14314, no promise of quality.
"""

from __future__ import annotations

from typing import Any, Literal

from gemma_ft.config import RunConfig
from gemma_ft.estimate.memory import estimate_memory
from gemma_ft.estimate.plan import optimizer_steps
from gemma_ft.estimate.remedies import STEP, remedies
from gemma_ft.estimate.workload import Workload, sequences
from gemma_ft.hardware import Machine
from gemma_ft.shape import ModelShape

Preset = Literal["quick", "balanced", "best", "small"]
PRESETS: tuple[Preset, ...] = ("quick", "balanced", "best", "small")
LABELS: dict[Preset, str] = {
    "quick": "Quick try",
    "balanced": "Balanced",
    "best": "Best quality",
    "small": "Smallest memory",
}
TINY, LARGE, FULL_AT_MOST = 50e6, 9e9, 1.1e9
"""Weights of models that need far higher rates, that need lower ones, and that "best" tunes whole."""
QUICK_STEPS = 60
EVALUATIONS = 10
"""How often a run is measured and saved."""
MUCH_DATA, VERY_MUCH_DATA = 5_000, 50_000
"""Rows from which fewer epochs do."""
USUAL_BATCH, LARGEST_MICRO_BATCH = 16, 16
WORTH_4_BITS = 0.3
"""The least share of the weights that 4 bits must reach to be worth it."""


def preset(name: Preset, config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine) -> RunConfig:
    """Return the config with method and training as the preset has them."""
    dpo = config.method.objective == "dpo"
    whole = name == "best" and not dpo and shape.parameters <= FULL_AT_MOST
    drafts = [_draft(name, config, shape, workload, machine, whole=True)] if whole else []
    drafts.append(_draft(name, config, shape, workload, machine, whole=False))
    largest = 1 if name == "small" else LARGEST_MICRO_BATCH
    sized = [_with_batch(draft, shape, workload, machine, largest) for draft in drafts]
    fitting = next((each for each in sized if _fits(each, shape, workload, machine)), None)
    return _with_rhythm(name, fitting or _made_to_fit(sized[-1], shape, workload, machine, largest), workload)


def _draft(
    name: Preset, config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine, *, whole: bool
) -> RunConfig:
    """Return the config before its batch and rhythm are chosen."""
    four_bits = name == "small" and bool(machine.gpus) and shape.quantisable >= WORTH_4_BITS * shape.parameters > TINY
    rank = {"quick": 8, "balanced": 16, "best": 64 if workload.train_rows >= MUCH_DATA else 32, "small": 8}[name]
    best = name == "best"
    changes: dict[str, Any] = {
        "method.adapter": "none" if whole else "qlora" if four_bits else "lora",
        "method.rank": rank,
        "method.alpha": rank if best else 2 * rank,
        "method.dropout": 0.0 if shape.parameters <= TINY else 0.05,
        "method.targets": "all",
        "method.dora": False,
        "method.rslora": best and not whole,
        "training.epochs": _epochs(name, workload),
        "training.max_steps": None,
        "training.learning_rate": _rate(config, shape, whole=whole),
        "training.schedule": "cosine" if best else "linear",
        "training.warmup_fraction": 0.05,
        "training.optimizer": "adamw_8bit" if name == "small" and machine.gpus else "adamw",
        "training.gradient_checkpointing": "on" if name == "small" else "auto",
        "training.max_length": _length(shape, workload),
        "training.packing": False,
        "training.keep_best": best and _measures(config),
        "training.early_stopping": 0,
        "training.eval_every": 50,
        "compute.sharding": "auto",
    }
    return config.changed(changes)


def _epochs(name: Preset, workload: Workload) -> float:
    rows = workload.train_rows
    usual = 1.0 if rows >= VERY_MUCH_DATA else 2.0 if rows >= MUCH_DATA else 3.0
    return 1.0 if name == "quick" and rows >= QUICK_STEPS else usual


def _rate(config: RunConfig, shape: ModelShape, *, whole: bool) -> float:
    """Return the learning rate: LoRA's is ten times that of full tuning, DPO's far lower than either."""
    tiny = shape.parameters <= TINY
    if config.method.objective == "dpo":
        return 5e-4 if tiny else 5e-6
    if whole:
        return 1e-3 if tiny else 2e-5
    return 5e-3 if tiny else 1e-4 if shape.parameters >= LARGE else 2e-4


def _length(shape: ModelShape, workload: Workload) -> int:
    """Return a maximum length that cuts no row, if the model can bear it."""
    return min(-(-workload.longest // STEP) * STEP, shape.context)


def _measures(config: RunConfig) -> bool:
    data = config.data
    return data.validation_fraction > 0 or bool(data.validation_split or data.validation_path)


def _effective_batch(workload: Workload) -> int:
    """Return how many rows make a step: fewer when there are few, so that there are some steps at all."""
    rows = workload.train_rows
    return USUAL_BATCH if rows >= 400 else 8 if rows >= 100 else 4 if rows >= 16 else 1


def _with_batch(draft: RunConfig, shape: ModelShape, workload: Workload, machine: Machine, largest: int) -> RunConfig:
    """Return the config with the largest batch that fits, a power of two; with the smallest when none does."""
    rows = _effective_batch(workload)
    size = min(rows, largest)
    while True:
        changes = {"training.batch_size": size, "training.accumulation": rows // size}
        sized = draft.changed(changes)
        if size == 1 or _fits(sized, shape, workload, machine):
            return sized
        size //= 2


def _made_to_fit(
    smallest: RunConfig, shape: ModelShape, workload: Workload, machine: Machine, largest: int
) -> RunConfig:
    """Return the config with the first remedy that makes it fit; as it is when there is none."""
    found = remedies(smallest, shape, workload, machine)
    enough = next((remedy for remedy in found if remedy.fits == "fits"), None)
    if enough is None:
        return smallest
    return _with_batch(smallest.changed(enough.changes), shape, workload, machine, largest)


def _fits(config: RunConfig, shape: ModelShape, workload: Workload, machine: Machine) -> bool:
    return estimate_memory(config, shape, workload.cut_to(config.training.max_length), machine).fits == "fits"


def _with_rhythm(name: Preset, config: RunConfig, workload: Workload) -> RunConfig:
    """Return the config measured and saved about ten times; "quick" ends early when there are many rows."""
    steps = optimizer_steps(config, sequences(config, workload))
    most = min(steps, QUICK_STEPS) if name == "quick" else steps
    every = max(1, most // EVALUATIONS)
    changes = {"training.eval_every": every, "training.save_every": every}
    return config.changed(changes | ({"training.max_steps": most} if most < steps else {}))
