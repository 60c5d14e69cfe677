"""The disk on the command line: what the runs take, and deleting a run or its checkpoints.

Promises that nothing is deleted without a yes: asked for on a terminal, or given with `--yes`. Knows no command names;
`__main__.py` declares them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import typer

from gemma_ft.errors import ConfigError
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.storage import delete_checkpoints, delete_run, sweep
from gemma_ft.monitor.disk import RunSize, disk_use, disk_warning, run_size, size_in_words
from gemma_ft.rundir import ACTIVE, RESUMABLE, RunDir


def tell_disk(manager: JobManager, *, as_json: bool) -> None:
    """Print what each run takes, all of them together, and what is free."""
    runs = manager.settings.runs
    use = disk_use(runs)
    if as_json:
        listed = [{**asdict(size), "total": size.total} for size in use.runs]
        typer.echo(json.dumps({"runs": listed, "total": use.total, "free": use.free}))
        return
    if use.runs:
        typer.echo(f"{'run':<48} {'status':<12} {'checkpoints':>12} {'model':>10} {'rest':>10} {'total':>10}")
    for size in use.runs:
        parts = (size_in_words(part) for part in (size.checkpoints, size.model, size.rest, size.total))
        typer.echo("{:<48} {:<12} {:>12} {:>10} {:>10} {:>10}".format(size.run_id, size.status, *parts))
    typer.echo(f"{size_in_words(use.total)} in {len(use.runs)} runs, {size_in_words(use.free)} free.")
    if warning := disk_warning(runs):
        typer.echo(warning, err=True)


def delete(manager: JobManager, run: RunDir, *, only_checkpoints: bool, sure: bool) -> None:
    """Delete a run or its checkpoints after a yes. Raises `ConfigError` when nobody can be asked, `RunBusy`, ..."""
    status = manager.state(run).status
    size = run_size(run, status)
    if not sure and status not in ACTIVE:
        _ask(_what(size, only_checkpoints=only_checkpoints))
    remove = delete_checkpoints if only_checkpoints else delete_run
    freed = remove(manager, run.run_id)
    sweep(manager.settings.runs)
    typer.echo(f"Deleted {'the checkpoints of ' if only_checkpoints else ''}{run.run_id}: {size_in_words(freed)}.")


def _what(size: RunSize, *, only_checkpoints: bool) -> str:
    """Say what would be gone, and what that means."""
    if not only_checkpoints:
        model = " with its model" if size.model else ""
        return f"Delete the run {size.run_id}{model} ({size_in_words(size.total)}) for good?"
    then = " It can then only be resumed from the start." if size.status in RESUMABLE else ""
    return f"Delete the checkpoints of {size.run_id} ({size_in_words(size.checkpoints)}) for good?{then}"


def _ask(question: str) -> None:
    """Wait for a yes; anything else leaves. Raises `ConfigError` without a terminal."""
    if not sys.stdin.isatty():
        raise ConfigError("Nothing was deleted: there is no terminal to ask on.", "Add --yes if you are sure.")
    typer.confirm(question, abort=True)
