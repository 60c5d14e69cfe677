"""A run in one flat object, as the list of runs, the API and `show` give it.

Promises plain JSON values, cheap enough for hundreds of runs: the newest step comes from the end of the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gemma_ft.errors import ConfigError
from gemma_ft.events import Fact, read_facts
from gemma_ft.rundir import RunDir, RunState

Summary = dict[str, Any]
TAIL_BYTES = 8192
KINDS = ("step", "eval", "checkpoint", "phase")
EVENT_WITHIN = 80
"""The bytes of a line in which its kind stands, as `events.FactWriter` writes it."""
METRICS = ("loss", "learning_rate", "grad_norm", "epoch", "tokens", "token_accuracy")


def summarise(run: RunDir, state: RunState) -> Summary:
    """Return what there is to say about a run; `state` is the true one, from the job manager."""
    step = last_step(run.events)
    return {
        "run_id": run.run_id,
        **describe_run(run),
        "status": state.status,
        "phase": state.phase,
        "created_at": state.created_at,
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "attempt": state.attempt,
        "parent": run.origin().parent,
        "step": step.get("step", 0),
        "max_steps": step.get("max_steps"),
        "metrics": {name: step[name] for name in METRICS if name in step},
        "has_model": run.model.is_dir(),
        "error": state.error.model_dump() if state.error else None,
        "folder": str(run.path),
    }


def describe_run(run: RunDir) -> dict[str, str | None]:
    """Return the run's label, model and method; a config that this version cannot read hides no run."""
    try:
        config = run.config()
    except ConfigError:
        return {"name": run.run_id, "model": None, "adapter": None}
    return {"name": config.name, "model": config.model.id, "adapter": config.method.adapter}


def newest_facts(path: Path) -> dict[str, Fact]:
    """Return the newest step, evaluation and checkpoint that a run still counts, by the event's name.

    Reads the whole file, a line at a time, without the libraries that the page reads it with.
    """
    found: dict[str, bytes] = {}
    try:
        with path.open("rb") as file:
            for line in file:
                kind = next((kind for kind in KINDS if f'"event":"{kind}"'.encode() in line[:EVENT_WITHIN]), None)
                if kind == "phase":
                    begin = _parsed(line).get("step")
                    if isinstance(begin, int):
                        found = {name: kept for name, kept in found.items() if _parsed(kept).get("step", 0) <= begin}
                elif kind and line.endswith(b"\n"):
                    found[kind] = line
    except OSError:
        pass
    return {kind: _parsed(line) for kind, line in found.items()}


def _parsed(line: bytes) -> Fact:
    try:
        fact = json.loads(line)
    except ValueError:
        return {}
    return fact if isinstance(fact, dict) else {}


def last_step(path: Path) -> Fact:
    """Return the newest step of a run, looking from the end of its file backwards; empty when there is none."""
    size = path.stat().st_size if path.exists() else 0
    window = TAIL_BYTES
    while size:
        facts, _ = read_facts(path, max(0, size - window))
        if step := next((fact for fact in reversed(facts) if fact.get("event") == "step"), None):
            return step
        if window >= size:
            break
        window *= 4
    return {}
