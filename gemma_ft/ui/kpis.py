"""The figures above the curves: what the model is, how far it is, how fast it goes, and what time and money it takes.

Promises measured figures or a dash, never a guess, and a hint that says what a figure is. Model FLOPs utilisation is
given only for models of the catalogue on GPUs whose peak a data sheet names; the arithmetic of recomputed activations
is not counted, as is usual. `ELAPSED`, `LEFT` and `PRICE` are counted by the browser from the view's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gemma_ft import catalog
from gemma_ft.config import RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.estimate.flavours import FLAVOURS
from gemma_ft.estimate.plan import PEAKS, operations_per_token, peak_operations
from gemma_ft.events import Fact
from gemma_ft.hardware import Gpu, Machine
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.monitor.pace import RECENT, SPREAD, Pace
from gemma_ft.sharing import processes_for
from gemma_ft.ui.present import DASH, count, figure, rate, seconds, size

ELAPSED, LEFT, PRICE = "elapsed", "left", "price"
LAYOUT: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Model": (
        ("parameters", "Parameters", "All weights of the model; shared ones count once."),
        ("trained", "Trained", "Weights that may change, and their share of all."),
        ("layers", "Layers", "Transformer layers of the language model."),
        ("context", "Context", "The longest text that the model can bear, in tokens."),
        ("precision", "Precision", "The format that the model computes in."),
        ("memory", "Memory", "What the run holds now: of the GPU where there is one, else of the machine's memory."),
    ),
    "Progress": (
        ("step", "Step", "Optimizer steps made, of all."),
        ("percent", "Done", "Share of the steps that are made."),
        ("epoch", "Epoch", "How often the data has been seen."),
        ("loss", "Loss", "Loss on the trained tokens at the newest step; lower is better."),
        ("held_out", "Held-out loss", "Loss on rows that are not trained on, at the newest evaluation."),
        ("best", "Best held-out", "The lowest held-out loss so far, and its step."),
    ),
    "Speed": (
        ("steps_per_second", "Steps/s", f"Over the last {RECENT} steps, without evaluations and saving."),
        ("tokens_per_second", "Tokens/s", "Tokens that went through the model, padding not counted."),
        ("rows_per_second", "Samples/s", "Rows of the data that were trained on."),
        ("utilisation", "Utilisation", "Model FLOPs utilisation: arithmetic done, of the most that the GPUs can do."),
        ("tokens", "Tokens", "Tokens that went through the model so far, padding not counted."),
        ("gradient", "Gradient norm", "Length of the gradient at the newest step, before it is clipped."),
    ),
    "Time": (
        (ELAPSED, "Elapsed", "Time of all attempts together; pauses between them are not counted."),
        (LEFT, "Time left", "From the newest steps, and what evaluating and saving took so far."),
        ("step_mean", "Step", f"Mean time of the last {SPREAD:,} steps."),
        ("step_p95", "Step, p95", f"95 of 100 of the last {SPREAD:,} steps took less."),
        ("evaluation", "Evaluation", "Mean time of one evaluation, and how many there were."),
        (PRICE, "Price so far", "Elapsed time at the list price of this machine on Hugging Face."),
    ),
}
"""The groups, and in each the figures: key, label, hint."""


def figures(facts: RunFacts, pace: Pace, config: RunConfig | None, sample: Fact) -> dict[str, str]:
    """Return every figure's text by its key; `sample` is the newest one of the machine. Call it with the facts locked.

    Those that the browser counts are missing.
    """
    columns, model = facts.columns, facts.model
    epoch, tokens = columns.last("epoch"), columns.last("tokens")
    held_out = facts.evals[-1].get("loss") if facts.evals else None
    return {
        "parameters": count(model.get("parameters")),
        "trained": _trained(model),
        "layers": count(model.get("layers")),
        "context": count(model.get("context")),
        "precision": str(model.get("precision") or DASH),
        "memory": _memory(sample),
        "step": f"{facts.step:,} / {facts.max_steps:,}" if facts.max_steps and columns.rows else DASH,
        "percent": f"{100 * facts.step / facts.max_steps:.0f} %" if facts.max_steps and columns.rows else DASH,
        "epoch": figure(epoch, 2),
        "loss": figure(float(columns.column("loss")[-1])) if columns.rows else DASH,
        "held_out": figure(held_out),
        "best": _best(facts),
        "steps_per_second": rate(pace.steps_per_second),
        "tokens_per_second": rate(pace.tokens_per_second),
        "rows_per_second": rate(pace.rows_per_second),
        "utilisation": _percent(utilisation(facts, pace, config, sample)),
        "tokens": count(tokens),
        "gradient": figure(columns.last("grad_norm"), 3),
        "step_mean": seconds(pace.step_mean),
        "step_p95": seconds(pace.step_p95),
        "evaluation": f"{seconds(pace.evaluation_mean)} × {pace.evaluations}" if pace.evaluation_mean else DASH,
    }


def utilisation(facts: RunFacts, pace: Pace, config: RunConfig | None, sample: Fact) -> float | None:
    """Return the share of the GPUs' peak that the model's arithmetic takes; `None` when something of it is unknown."""
    known = catalog.find(config.model.id) if config else None
    gpus = _gpus(sample)
    tokens, epoch, rows = facts.columns.last("tokens"), facts.columns.last("epoch"), facts.data.get("train")
    if not (config and known and gpus and pace.tokens_per_second and tokens and epoch and isinstance(rows, int)):
        return None
    if not any(part in gpus[0].name.lower() for part, _ in PEAKS):
        return None
    machine = Machine(name="", gpus=gpus, cores=1, memory=0, memory_free=0, disk_free=0)
    try:
        working = processes_for(config, machine)
    except ConfigError:
        return None
    length = tokens / max(1.0, epoch * rows)
    done = operations_per_token(config, known.shape, length, checkpointing=False) * pace.tokens_per_second
    return done / (working * peak_operations(gpus[0], half=facts.model.get("precision") != "float32"))


def dollars_per_hour(hardware: str | None) -> float | None:
    """Return the list price of a machine by the Hub's name of it; `None` for another machine."""
    return next((flavour.dollars_per_hour for flavour in FLAVOURS if flavour.name == hardware), None)


def _gpus(sample: Fact) -> tuple[Gpu, ...]:
    found = sample.get("gpus")
    return tuple(
        Gpu(name=str(gpu["name"]), memory=0, free=0, capability=(8, 0))
        for gpu in (found if isinstance(found, list) else ())
        if isinstance(gpu, dict) and gpu.get("name")
    )


def _trained(model: Mapping[str, Any]) -> str:
    trained, of = model.get("trained"), model.get("parameters")
    if not trained or not of:
        return DASH
    return f"{count(trained)} · {100 * min(1.0, trained / of):.2g} %"


def _memory(sample: Fact) -> str:
    """Return what the run holds: of all GPUs together, else of the machine's memory."""
    gpus = [gpu.get("memory_used") for gpu in sample.get("gpus") or () if isinstance(gpu, dict)]
    if gpus and all(isinstance(used, (int, float)) for used in gpus):
        return size(sum(used for used in gpus if used))
    own = sample.get("own")
    return size(own.get("memory_used") or None) if isinstance(own, dict) else DASH


def _best(facts: RunFacts) -> str:
    measured = [(fact["loss"], fact["step"]) for fact in facts.evals if isinstance(fact.get("loss"), (int, float))]
    if not measured:
        return DASH
    loss, step = min(measured)
    return f"{loss:.4f} · step {step:,}"


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{100 * share:.1f} %"
