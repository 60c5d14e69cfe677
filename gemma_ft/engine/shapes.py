"""The shape of the model that a configuration names, for a process that has no PyTorch.

Promises the figures of the catalogue for its models, and for any other Gemma those that a child process counts from the
model's own `config.json` (`python -m gemma_ft.engine.shapes FOLDER` prints them). Fetches no weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemma_ft.catalog import find
from gemma_ft.config import ModelConfig
from gemma_ft.errors import ErrorReport, GemmaFtError, ModelError
from gemma_ft.settings import Settings
from gemma_ft.shape import LinearGroup, ModelShape

COUNTING_SECONDS = 120


class Shapes:
    """Remembers the shapes that were counted."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, int], ModelShape | ModelError] = {}

    def of(self, model: ModelConfig, hub_token: str | None) -> ModelShape:
        """Return the shape of a model; of one on the Hub its configuration is fetched. Raises `ModelError`."""
        known = find(model.id)
        if known and not model.revision:
            return known.shape
        from gemma_ft.train.resolve import resolve_tokenizer

        folder = resolve_tokenizer(model, Settings.from_env().models, hub_token=hub_token)
        key = (str(folder), (folder / "config.json").stat().st_mtime_ns)
        if key not in self._counted:
            try:
                self._counted[key] = _count(folder)
            except ModelError as exc:
                self._counted[key] = exc
        found = self._counted[key]
        if isinstance(found, ModelError):
            raise found
        return found


def _count(folder: Path) -> ModelShape:
    """Count in a child, which loads PyTorch and goes. Raises `ModelError`."""
    command = [sys.executable, "-m", "gemma_ft.engine.shapes", str(folder)]
    needs_no_token = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
    try:
        child = subprocess.run(command, env=needs_no_token, timeout=COUNTING_SECONDS, check=False, **pipes)
        told: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (ValueError, IndexError, subprocess.TimeoutExpired) as exc:
        raise ModelError("Its shape could not be counted.", "The log of the inspector says why.") from exc
    if "error" in told:
        report = ErrorReport(**told["error"])
        raise ModelError(report.what_happened, report.what_to_do)
    groups: dict[str, Any] = {name: LinearGroup(**told[name]) for name in ("attention", "mlp")}
    return ModelShape(**{**told, **groups, "modalities": tuple(told["modalities"])})


def main(folder: str) -> None:
    """Print the shape of the model in a folder as one line of JSON, or the reason why it has none."""
    from gemma_ft.train.inspection import inspect

    try:
        told = asdict(inspect(Path(folder)))
    except GemmaFtError as exc:
        told = {"error": exc.report.model_dump()}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
