"""Everything that can be known to be wrong with a run before it starts.

Promises one report with every problem found, each with a remedy, and the figures of the data as the trainer will see
them (the trainer prepares the data with the same function). Loads no model and asks no network.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemma_ft.config import RunConfig
from gemma_ft.data.formats import Problem
from gemma_ft.data.prepare import PreparedData, prepare
from gemma_ft.errors import DataError, GemmaFtError

Report = dict[str, Any]


def check(config: RunConfig, *, has_token: bool) -> Report:
    """Return `ok`, `problems`, and the figures of the `data` (`None` when it cannot be read)."""
    problems = []
    if config.publish.repo and not has_token:
        fix = "Give a token with write access, or leave the repository empty."
        problems.append(_error("token", "There is no Hub token to publish with.", fix))
    if config.model.is_path and not Path(config.model.id).is_dir():
        problems.append(_error("model", f"There is no folder {config.model.id}.", "Check the path of the model."))
    try:
        data = prepare(config.data)
    except DataError as exc:
        return _report([*problems, _problem(exc)], None)
    dropped = [Problem(**{**asdict(problem), "severity": "warning"}) for problem in data.problems]
    return _report([*problems, *dropped], data)


def refused(exc: GemmaFtError) -> Report:
    """Return the report on something that is not even a configuration, or not one that may be used here."""
    return _report([_problem(exc)], None)


def plan(config: RunConfig, train_rows: int) -> int:
    """Return how many optimizer steps the run will make."""
    training = config.training
    if training.max_steps:
        return training.max_steps
    per_epoch = -(-train_rows // (training.batch_size * training.accumulation))
    return max(1, -(-int(per_epoch * training.epochs * 1000) // 1000))


def _report(problems: list[Problem], data: PreparedData | None) -> Report:
    return {
        "ok": not any(problem.severity == "error" for problem in problems),
        "problems": [asdict(problem) for problem in problems],
        "data": data
        and {
            "format": data.format,
            "rows": data.rows,
            "kept": data.kept,
            "dropped": len(data.problems),
            "train_rows": len(data.train),
            "validation_rows": len(data.validation),
        },
    }


def _error(kind: str, message: str, fix: str) -> Problem:
    return Problem(severity="error", kind=kind, message=message, fix=fix)


def _problem(exc: GemmaFtError) -> Problem:
    return _error(exc.kind, exc.report.what_happened, exc.report.what_to_do)
