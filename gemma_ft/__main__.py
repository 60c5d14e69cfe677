"""The command line: the same runs as on the page, from a terminal.

Promises exit codes that a script can use: 0 finished, 1 failed, 2 bad configuration or data, 3 stopped. Everything it
does goes through the job manager and the run folders, so the page shows what was started here and the other way
round.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, ParamSpec

import typer

from gemma_ft import __version__
from gemma_ft.cli_storage import delete, tell_disk
from gemma_ft.config import load_config
from gemma_ft.engine.client import EngineClient
from gemma_ft.errors import ConfigError, DataError, GemmaFtError, RunNotFound
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.notify import DELIVERY_SECONDS, try_address
from gemma_ft.jobs.spawn import PROJECT_ROOT, own_environment
from gemma_ft.monitor.identity import is_alive
from gemma_ft.monitor.log import read_log
from gemma_ft.monitor.summary import Summary, summarise
from gemma_ft.reference import reference
from gemma_ft.rundir import ACTIVE, RunDir, RunState
from gemma_ft.settings import Settings

P = ParamSpec("P")
FAILED, BAD_INPUT, STOPPED = 1, 2, 3
EXIT_CODES = {"finished": 0, "failed": FAILED, "stopped": STOPPED, "interrupted": STOPPED}
FOLLOW_SECONDS = 0.3

app = typer.Typer(
    name="gemma_ft", help="Fine-tune Gemma models.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)
ConfigFile = Annotated[Path, typer.Argument(help="A run's configuration, YAML or JSON.")]
RunId = Annotated[str, typer.Argument(help="The run's id, as `runs` lists it, or `last`.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def tells_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Print our errors in one place: title, what happened, what to do; no traceback."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except GemmaFtError as exc:
            _tell_error(exc.report.title, exc.report.what_happened, exc.report.what_to_do)
            bad_input = isinstance(exc, (ConfigError, DataError, RunNotFound))
            raise typer.Exit(BAD_INPUT if bad_input else FAILED) from exc

    return wrapped


@app.command()
@tells_errors
def train(
    config_file: ConfigFile,
    detach: Annotated[bool, typer.Option(help="Return as soon as the run has started.")] = False,
) -> None:
    """Start a run and follow it; Ctrl-C stops it and saves, a second Ctrl-C cancels it."""
    config = load_config(config_file)
    with _inspector() as inspector:
        report = inspector.full_check(config.model_dump(mode="json"))
    if not report["ok"]:
        _tell_problems(report["problems"])
        raise typer.Exit(BAD_INPUT)
    manager = _manager()
    manager.reconcile()
    run = manager.start(config)
    typer.echo(f"Run {run.run_id} in {run.path}")
    if not detach:
        _follow(manager, run)


@app.command("check")
@tells_errors
def check_command(config_file: ConfigFile, as_json: AsJson = False) -> None:
    """Say everything that is wrong with a configuration and its data, without starting anything."""
    config = load_config(config_file)
    with _inspector() as inspector:
        report = inspector.full_check(config.model_dump(mode="json"))
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False))
    else:
        _tell_problems(report["problems"])
        _tell_data(report)
        _tell_fit(report)
        typer.echo("Ready to start." if report["ok"] else "Not ready.")
    raise typer.Exit(0 if report["ok"] else BAD_INPUT)


@app.command()
@tells_errors
def runs(as_json: AsJson = False) -> None:
    """List all runs, newest first."""
    manager = _manager()
    summaries = [summarise(run, manager.state(run)) for run in manager.runs()]
    if as_json:
        typer.echo(json.dumps(summaries, ensure_ascii=False))
        return
    for summary in summaries:
        typer.echo(f"{summary['run_id']:<48} {summary['status']:<12} {_steps(summary):<16} {summary['model']}")
    if not summaries:
        typer.echo("No runs yet. Start one: python -m gemma_ft train examples/try_it.yaml")


@app.command()
@tells_errors
def show(run_id: RunId, as_json: AsJson = False) -> None:
    """Show one run: status, progress, and why it failed if it did."""
    manager = _manager()
    run = _open(manager, run_id)
    state = manager.state(run)
    summary = summarise(run, state)
    if as_json:
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    typer.echo(f"{summary['run_id']}: {summary['status']} {_steps(summary)}")
    for name, value in summary["metrics"].items():
        typer.echo(f"  {name}: {value}")
    typer.echo(f"  folder: {summary['folder']}")
    _tell_state_error(state)
    if state.error and state.error.details:
        typer.echo(indent(state.error.details, "    "), err=True)


@app.command()
@tells_errors
def stop(
    run_id: RunId, cancel: Annotated[bool, typer.Option("--cancel", help="Do not save a checkpoint.")] = False
) -> None:
    """Stop a run at its next step and save a checkpoint to resume from."""
    manager = _manager()
    run = manager.stop(_open(manager, run_id).run_id, save=not cancel)
    typer.echo(f"Asked {run.run_id} to {'cancel' if cancel else 'stop and save'}.")


@app.command()
@tells_errors
def resume(run_id: RunId, detach: Annotated[bool, typer.Option(help="Return at once.")] = False) -> None:
    """Go on with a stopped, failed or interrupted run from its last checkpoint."""
    manager = _manager()
    manager.reconcile()
    run = _open(manager, run_id)
    offset = run.log.stat().st_size if run.log.exists() else 0
    manager.resume(run.run_id)
    if not detach:
        _follow(manager, run, offset)


@app.command("continue")
@tells_errors
def continue_command(
    run_id: RunId,
    epochs: Annotated[float, typer.Option(help="How many more times each row is seen.")] = 1.0,
    detach: Annotated[bool, typer.Option(help="Return at once.")] = False,
) -> None:
    """Train a finished run further, as a new run that goes on from its last checkpoint."""
    manager = _manager()
    run = manager.continue_run(_open(manager, run_id).run_id, epochs)
    typer.echo(f"Run {run.run_id} in {run.path}")
    if not detach:
        _follow(manager, run)


@app.command()
@tells_errors
def save(run_id: RunId) -> None:
    """Save a checkpoint at the next step and go on."""
    manager = _manager()
    manager.request(_open(manager, run_id).run_id, "save_now")
    typer.echo("A checkpoint is saved after the current step.")


@app.command()
@tells_errors
def sample(run_id: RunId) -> None:
    """Let a run answer its questions at the next step."""
    manager = _manager()
    manager.request(_open(manager, run_id).run_id, "sample_now")
    typer.echo("The questions are answered after the current step.")


@app.command()
@tells_errors
def move(run_id: RunId, places: Annotated[int, typer.Argument(help="Later if positive, earlier if negative.")]) -> None:
    """Move a queued run in the line; a negative number needs `--` in front of it."""
    manager = _manager()
    manager.move(_open(manager, run_id).run_id, places)
    for place, waiting in enumerate(manager.waiting(), 1):
        typer.echo(f"{place:>3} {waiting.run_id}")


@app.command()
@tells_errors
def export(
    run_id: RunId,
    target: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    merge: Annotated[bool, typer.Option("--merge", help="Add the adapter into the base weights.")] = False,
) -> None:
    """Write a finished model to a folder of its own."""
    settings = Settings.from_env()
    run = _open(_manager(), run_id)
    command = [sys.executable, "-m", "gemma_ft.engine.export", str(run.path), str(target.resolve())]
    environment = own_environment(hub_token=settings.hub_token) | {"GEMMA_FT_HOME": str(settings.home)}
    ended = subprocess.run([*command, *(["--merge"] if merge else [])], env=environment, cwd=PROJECT_ROOT, check=False)
    if ended.returncode:
        raise typer.Exit(FAILED)
    typer.echo(f"Wrote {target}")


@app.command()
@tells_errors
def disk(as_json: AsJson = False) -> None:
    """Show what the runs take on the disk."""
    tell_disk(_manager(), as_json=as_json)


@app.command("delete")
@tells_errors
def delete_command(
    run_id: RunId,
    checkpoints: Annotated[bool, typer.Option("--checkpoints", help="Keep the run and its model.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a run with everything in it, or only its checkpoints; asks first."""
    manager = _manager()
    delete(manager, _open(manager, run_id), only_checkpoints=checkpoints, sure=yes)


@app.command("notify-test")
@tells_errors
def notify_test(
    url: Annotated[str | None, typer.Argument(help="ntfy topic or webhook; if left out, $GEMMA_FT_NOTIFY_URL.")] = None,
) -> None:
    """Send a test notice and say what came back."""
    typer.echo(try_address(url, Settings.from_env()))


@app.command("knobs")
def knobs_command() -> None:
    """Print every setting of a run as a page of Markdown."""
    typer.echo(reference(), nl=False)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _manager() -> JobManager:
    settings = Settings.from_env()
    settings.make_home()
    return JobManager(settings)


def _open(manager: JobManager, run_id: str) -> RunDir:
    """Return a run by its id; `last` is the newest."""
    if run_id == "last" and (newest := manager.runs()):
        return newest[0]
    return manager.open(run_id)


def _follow(manager: JobManager, run: RunDir, offset: int = 0) -> None:
    """Print the run's log until it ends; Ctrl-C becomes a wish. Leaves with the exit code of the outcome."""
    asked = 0

    def ask(*_: object) -> None:
        nonlocal asked
        asked += 1
        run.wish("stop" if asked == 1 else "cancel")
        typer.echo("Stopping and saving (Ctrl-C again to cancel) ..." if asked == 1 else "Cancelling ...", err=True)

    signal.signal(signal.SIGINT, ask)
    ended, told = False, 0
    while not ended:
        state = manager.state(run)
        ended = state.status not in ACTIVE
        if state.status == "queued" and told != (place := _place(manager, run)):
            told = place
            typer.echo(f"Waiting for a device, number {place} in line.", err=True)
        text, offset = read_log(run.log, offset)
        typer.echo(text, nl=False)
        if not ended:
            time.sleep(FOLLOW_SECONDS)
    _tell_state_error(state)
    wait_until = time.monotonic() + DELIVERY_SECONDS
    while is_alive(state.supervisor) and time.monotonic() < wait_until:
        time.sleep(FOLLOW_SECONDS)  # It sends its notice; the end of a container's first process would end it.
    typer.echo(f"Run {run.run_id} has {state.status}." if state.status != "interrupted" else "The run was interrupted.")
    if state.status == "finished":
        typer.echo(f"The model is in {run.model}")
    bad_input = state.exit_code == BAD_INPUT or (state.error is not None and state.error.kind in ("config", "data"))
    raise typer.Exit(BAD_INPUT if bad_input and state.status == "failed" else EXIT_CODES[state.status])


def _place(manager: JobManager, run: RunDir) -> int:
    """Return a run's place in line, 1 for the next one, 0 for one that does not wait any more."""
    waiting = manager.waiting()
    return waiting.index(run) + 1 if run in waiting else 0


def _steps(summary: Summary) -> str:
    return f"step {summary['step']}/{summary['max_steps']}" if summary["max_steps"] else summary["phase"]


def _tell_problems(problems: list[dict[str, Any]]) -> None:
    for problem in problems:
        row = f"row {problem['row']}: " if problem["row"] else ""
        typer.echo(f"{problem['severity']}: {row}{problem['message']}\n  {problem['fix']}", err=True)


@contextmanager
def _inspector() -> Iterator[EngineClient]:
    """A process that looks at data, for as long as the block lasts."""
    settings = Settings.from_env()
    settings.make_home()
    environment = own_environment(hub_token=settings.hub_token) | {"GEMMA_FT_HOME": str(settings.home)}
    inspector = EngineClient(settings.engine_log("check"), environment, PROJECT_ROOT)
    try:
        yield inspector
    finally:
        inspector.close()


def _tell_data(report: dict[str, Any]) -> None:
    """Print the figures of the data and of its X-ray, as far as there are any."""
    if data := report["data"]:
        typer.echo("\n".join(data["notes"]), nl=bool(data["notes"]))
        mapping = ", ".join(f"{part} = {column}" for part, column in data["mapping"].items())
        typer.echo(f"Format {data['format']} ({mapping}).")
        train, held_out = data["expected"]
        first = "" if data["complete"] else f"Going by the first {data['looked_at']:,} rows: about "
        typer.echo(f"{first}{train} rows to train on, {held_out} held out.")
    if xray := report["xray"]:
        typer.echo(
            f"{xray['tokens']:,} tokens in {xray['rows']:,} rows, {xray['supervised_fraction']:.0%} of them trained; "
            f"{xray['truncated_rows']:,} rows are cut at {xray['max_length']:,} tokens."
        )


def _tell_fit(report: dict[str, Any]) -> None:
    """Print whether it will run, how long, how much; and what the Doctor says that is not simply good."""
    if fit := report["fit"]:
        memory, plan = fit["memory"], fit["plan"]
        needs = f"{memory['low'] / 1e9:.1f} to {memory['high'] / 1e9:.1f} GB of {memory['available'] / 1e9:.1f} GB"
        said = {"fits": "Fits", "tight": "Tight", "no": "Does not fit"}[memory["fits"]]
        typer.echo(f"{said}: {needs} free ({memory['where']}). Disk: {plan['disk_bytes'] / 1e9:.2f} GB.")
        hours = f"{plan['seconds_low'] / 3600:.2g} to {plan['seconds_high'] / 3600:.2g} hours"
        typer.echo(f"{plan['steps']:,} steps, {plan['tokens']:,} tokens, about {hours} on {fit['machine']['name']}.")
        for remedy in fit["remedies"]:
            changes = ", ".join(f"{name}={value}" for name, value in remedy["changes"].items())
            typer.echo(f"  would help: {changes}. {remedy['cost']}")
        if fit["prices"]["cheapest"]:
            offer = next(offer for offer in fit["prices"]["offers"] if offer["name"] == fit["prices"]["cheapest"])
            low, high = offer["dollars"]
            typer.echo(f"Cheapest on Hugging Face that fits: {offer['name']}, ${low:.2f} to ${high:.2f} in all.")
    for line in report["doctor"]:
        if line["state"] != "good":
            typer.echo(f"{line['state']}: {line['name']}: {line['text']}")


def _tell_state_error(state: RunState) -> None:
    if state.error:
        _tell_error(state.error.title, state.error.what_happened, state.error.what_to_do)


def _tell_error(title: str, what_happened: str, what_to_do: str) -> None:
    typer.echo(f"{title}\n  {what_happened}\n  What to do: {what_to_do}", err=True)


if __name__ == "__main__":
    app(prog_name="python -m gemma_ft")
