"""Everything that can be known to be wrong with a run before it starts.

Promises one report with every problem found, each with a remedy, and the figures of the data as the trainer will see
them (the trainer prepares the data with the same functions). Loads no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gemma_ft.config import RunConfig
from gemma_ft.data.prepare import Survey, require_usable
from gemma_ft.data.problems import Problem
from gemma_ft.errors import DataError, GemmaFtError, NotHereYet

Report = dict[str, Any]


def check(config: RunConfig, *, has_token: bool, look: Callable[[], Survey]) -> Report:
    """Return `ok`, `problems`, and the figures of the `data` (`None` when it cannot be read, or not yet).

    `look` surveys the config's data and may raise `DataError`; the `columns` are those found when they fit no format.
    """
    problems = []
    if config.publish.repo and not has_token:
        fix = "Give a token with write access, or leave the repository empty."
        problems.append(_error("token", "There is no Hub token to publish with.", fix))
    if config.model.is_path and not Path(config.model.id).is_dir():
        problems.append(_error("model", f"There is no folder {config.model.id}.", "Check the path of the model."))
    elif Path(config.model.id).is_dir() and not any(Path(config.model.id).glob("*.safetensors")):
        what = f"The folder {config.model.id} holds no weights (*.safetensors)."
        problems.append(_error("weights", what, "Give the folder of a whole model, saved by transformers."))
    try:
        found = look()
    except NotHereYet as exc:
        return _report([*problems, replace(_problem(exc), severity="warning")], None)
    except DataError as exc:
        return _report([*problems, _problem(exc)], None) | {"columns": list(exc.columns)}
    try:
        require_usable(found, drop_bad_rows=config.data.drop_bad_rows)
    except DataError as exc:
        return _report([*problems, _problem(exc), *found.problems], found)
    return _report([*problems, *(replace(problem, severity="warning") for problem in found.problems)], found)


def refused(exc: GemmaFtError) -> Report:
    """Return the report on something that is not even a configuration, or not one that may be used here."""
    return _report([_problem(exc)], None)


def describe(found: Survey) -> dict[str, Any]:
    """Return the figures of data as plain values."""
    return {
        "format": found.format,
        "columns": list(found.columns),
        "mapping": found.mapping,
        "rows": found.rows,
        "kept": found.kept,
        "dropped": found.bad_rows,
        "train_rows": found.train_rows,
        "validation_rows": found.validation_rows,
        "looked_at": found.looked_at,
        "expected": list(found.expected),
        "complete": found.complete,
        "total": found.total,
        "notes": list(found.notes),
        "counts": found.counts,
    }


def _report(problems: list[Problem], found: Survey | None) -> Report:
    return {
        "ok": not any(problem.severity == "error" for problem in problems),
        "problems": [asdict(problem) for problem in problems],
        "columns": [],
        "data": found and describe(found),
    }


def _error(kind: str, message: str, fix: str) -> Problem:
    return Problem(severity="error", kind=kind, message=message, fix=fix)


def _problem(exc: GemmaFtError) -> Problem:
    return _error(exc.kind, exc.report.what_happened, exc.report.what_to_do)
