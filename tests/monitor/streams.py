"""Facts and looks at a machine as a run would write them, for tests of the alert rules, and ways to change them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

from gemma_ft.config import RunConfig
from gemma_ft.events import Fact
from gemma_ft.monitor.alerts import Alert, Alerts

GB = 1_000_000_000


def training(*, step: int = 0, t: float = 0.0, max_steps: int = 1000) -> Fact:
    """The fact with which the training loop begins."""
    return {"t": t, "event": "phase", "phase": "training", "step": step, "max_steps": max_steps}


def steps(
    losses: Iterable[float | str], *, first: int = 1, every: int = 1, t: float = 0.0, pace: float = 1.0, **fields: Any
) -> list[Fact]:
    """Steps with these losses, one a `pace`; further `fields` are values, or functions of the step."""
    made = []
    for place, loss in enumerate(losses):
        step = first + place * every
        seconds = (place + 1) * every * pace
        fact = {"t": t + seconds, "event": "step", "step": step, "max_steps": 1000, "seconds": seconds, "loss": loss}
        fact |= {"learning_rate": 2e-4, "grad_norm": 1.0, "tokens": step * 1000}
        made.append(fact | {name: value(step) if callable(value) else value for name, value in fields.items()})
    return made


def evals(losses: Iterable[float | str], *, every: int = 50) -> list[Fact]:
    """Evaluations with these held-out losses."""
    return [
        {"t": place * every + 0.5, "event": "eval", "step": place * every, "loss": loss}
        for place, loss in enumerate(losses, start=1)
    ]


def noisy(count: int, *, noise: float = 0.1, fall: float = 1.0, level: float = 2.0, seed: int = 0) -> list[float]:
    """Losses that fall by so much (in their logarithm) over the run, each with its own noise."""
    chance = random.Random(seed)
    return [level * math.exp(-fall * place / count + chance.gauss(0, noise)) for place in range(count)]


def looks(count: int, *, t: float = 0.0, **fields: Any) -> list[Fact]:
    """Looks at a healthy machine with one GPU, one a second; `fields` are put in place of its figures."""
    gpu = {"utilisation": 97, "memory_used": 60 * GB, "memory_total": 80 * GB, "temperature": 70, "throttled": False}
    healthy = {
        "memory_used": 20 * GB,
        "memory_total": 64 * GB,
        "disk_used": 100 * GB,
        "disk_total": 500 * GB,
        "own": {"cpu_percent": 100.0, "memory_used": 8 * GB},
    }
    of_gpu = {name: fields.pop(name) for name in list(fields) if name in gpu and not name.startswith("memory")}
    of_gpu |= {f"memory_{part}": fields.pop(f"gpu_{part}") for part in ("used", "total") if f"gpu_{part}" in fields}
    sample = healthy | {"gpus": [gpu | of_gpu]} | fields
    return [{"t": t + place, "event": "sample", **sample} for place in range(count)]


def feed(facts: Iterable[Fact], config: RunConfig | None = None, alerts: Alerts | None = None) -> list[Alert]:
    """Feed facts and looks in the order of their time, and return all that changed."""
    watching = alerts or Alerts(config or RunConfig())
    return [change for fact in sorted(facts, key=lambda fact: float(fact["t"])) for change in _one(watching, fact)]


def fired(changes: Iterable[Alert]) -> list[str]:
    """Return the names of the rules that spoke up, in order."""
    return [change.rule for change in changes if change.active]


def over(changes: Iterable[Alert]) -> list[str]:
    """Return the names of the rules that took their word back, in order."""
    return [change.rule for change in changes if not change.active]


def scaled(facts: Iterable[Fact], times: float, *fields: str) -> Iterator[Fact]:
    """Yield the facts with some measured values larger by a factor."""
    for fact in facts:
        held = [name for name in fields if isinstance(fact.get(name), float) and fact["event"] in ("step", "eval")]
        yield {name: value * times if name in held else value for name, value in fact.items()}


def _one(alerts: Alerts, fact: Fact) -> list[Alert]:
    return alerts.look(fact, float(fact["t"])) if fact["event"] == "sample" else alerts.take(fact)
