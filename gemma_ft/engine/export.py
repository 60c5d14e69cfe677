"""`python -m gemma_ft.engine.export RUN_DIR TARGET [--merge]`: a finished model as a folder of its own.

Promises that the target appears whole or not at all and is never overwritten. `--merge` adds the adapter into the base
weights, which gives a model that needs no PEFT.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from gemma_ft.errors import GemmaFtError, ModelError
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings


def export(run: RunDir, target: Path, *, merge: bool) -> None:
    """Write the run's result to `target`. Raises `ModelError`."""
    if not run.model.is_dir():
        raise ModelError(f"The run {run.run_id} has no finished model.", "Export a run that has finished.")
    if target.exists():
        raise ModelError(f"{target} exists already.", "Choose a new folder.")
    aside = target.with_name(f".{target.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    if merge and run.config().method.adapter != "none":
        _merge(run, aside)
    else:
        shutil.copytree(run.model, aside)
    aside.rename(target)


def _merge(run: RunDir, folder: Path) -> None:
    from gemma_ft.train.loading import load_result
    from gemma_ft.train.resolve import resolve_model

    config = run.config()
    base = resolve_model(config.model, Settings.from_env().models, enter=lambda _: None, report=lambda *_: None)
    model, tokenizer = load_result(base, run.model, config, whole=True)
    model.merge_and_unload().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    try:
        export(RunDir(Path(sys.argv[1])), Path(sys.argv[2]), merge="--merge" in sys.argv[3:])
    except GemmaFtError as exc:
        sys.exit(f"{exc.report.title}. {exc}")
