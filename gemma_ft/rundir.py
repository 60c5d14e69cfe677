"""The run folder: the only truth about a run, and the names of the files in it.

Promises that `state.json` is replaced in one piece, that a run id is safe as a folder name whatever the person typed,
and that no function here deletes a run. Who may write which file: the person's side (page, command line) makes the
folder and the wishes; the supervisor alone writes `state.json` once it is there; the trainer writes the facts (the
supervisor one between two attempts), the checkpoints and the result, and removes the wishes that it has granted. Does
not start or look at processes.
"""

from __future__ import annotations

import os
import re
import secrets
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from gemma_ft.config import RunConfig, config_from_json
from gemma_ft.errors import ConfigError, ErrorReport, RunNotFound
from gemma_ft.webhook import SECRETS, parse_webhook

Status = Literal["queued", "preparing", "training", "stopping", "finished", "stopped", "failed", "interrupted"]
Wish = Literal["shutdown", "stop", "cancel"]
"""How a run shall leave, the strongest last: the machine goes down, or somebody asks, with a checkpoint or without."""
Request = Literal["save_now", "sample_now"]

ACTIVE: frozenset[Status] = frozenset({"queued", "preparing", "training", "stopping"})
GOING: frozenset[Status] = ACTIVE - {"queued"}
"""What a run is called that has a device."""
RESUMABLE: frozenset[Status] = frozenset({"stopped", "failed", "interrupted"})


KILLED_FOR_MEMORY = "killed_for_memory"
"""The kind of the warning that the supervisor adds to the facts after an attempt that the kernel ended."""


class ProcessId(BaseModel):
    """A process that cannot be mistaken for a later one with the same number: its pid, when it was created (seconds, on
    the clock of `monitor/identity.py`), and in which life of the machine."""

    model_config = ConfigDict(frozen=True)

    pid: int
    created: float
    boot: str = ""


class StopProgress(BaseModel):
    """Where a stop stands: who asked for what, the rung of the ladder, and when the next rung is due (unix seconds)."""

    model_config = ConfigDict(frozen=True)

    wish: Wish
    rung: Literal["asked", "terminated", "killed"] = "asked"
    next_rung_at: float | None = None


class RunState(BaseModel):
    """What `state.json` holds. Times are unix seconds.

    `rescues` counts how often in a row the run was resumed without anybody asking for it and then saved nothing.
    """

    model_config = ConfigDict(frozen=True)

    status: Status = "queued"
    phase: str = ""
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    heartbeat: float | None = None
    attempt: int = 1
    rescues: int = 0
    supervisor: ProcessId | None = None
    trainer: ProcessId | None = None
    exit_code: int | None = None
    stop: StopProgress | None = None
    error: ErrorReport | None = None
    last_line: str = ""


class Origin(BaseModel):
    """Where a run comes from: the request that made it, and the finished run that it continues after `parent_step`."""

    model_config = ConfigDict(frozen=True)

    request: str | None = None
    parent: str | None = None
    parent_step: int | None = None


@dataclass(frozen=True, slots=True)
class RunDir:
    """One run's folder, by path. Cheap to make; nothing is read before it is asked for."""

    path: Path

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """The whole `RunConfig`, written once."""
        return self.path / "config.json"

    @property
    def state_file(self) -> Path:
        """The status and what belongs to it."""
        return self.path / "state.json"

    @property
    def origin_file(self) -> Path:
        """Where the run comes from; written once, absent in runs of older versions."""
        return self.path / "origin.json"

    @property
    def events(self) -> Path:
        """The trainer's facts."""
        return self.path / "events.jsonl"

    @property
    def system(self) -> Path:
        """The supervisor's samples of the machine."""
        return self.path / "system.jsonl"

    @property
    def alerts(self) -> Path:
        """What the supervisor found wrong, and when it was over; absent as long as there is nothing."""
        return self.path / "alerts.jsonl"

    @property
    def log(self) -> Path:
        """What the trainer printed."""
        return self.path / "output.log"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor printed; empty unless something went wrong with it."""
        return self.path / "supervisor.log"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the run's supervisor as long as it lives; holds the time of its last beat."""
        return self.path / "supervisor.lock"

    @property
    def wishes(self) -> Path:
        """The folder of wish files."""
        return self.path / "wishes"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints to resume from."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The result: an adapter or full weights."""
        return self.path / "model"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    def config(self) -> RunConfig:
        """Read the run's configuration. Raises `ConfigError` when it is missing or damaged."""
        try:
            return config_from_json(self.config_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"The configuration of {self.run_id} cannot be read: {exc}.", "Start a new run.") from exc

    def secrets(self) -> tuple[str, ...]:
        """Return what stands in the configuration and must not be printed; nothing if that cannot be read."""
        try:
            url = self.config().notify.url
        except ConfigError:
            return ()
        return (url, parse_webhook(url).url) if url else ()

    def state(self) -> RunState:
        """Read the run's state as the file tells it; whether the processes in it still live is another question.

        A file that is damaged tells of an interrupted run, and says so.
        """
        text = self.state_file.read_bytes()
        try:
            return RunState.model_validate_json(text)
        except ValidationError:
            report = ErrorReport(
                kind="state",
                title="The state of this run was damaged",
                what_happened="state.json cannot be read; the machine may have gone down while it was written.",
                what_to_do="Resume the run to go on from its last checkpoint.",
            )
            created = self.path.stat().st_ctime
            return RunState(status="interrupted", created_at=created, ended_at=created, error=report)

    def origin(self) -> Origin:
        """Read where the run comes from; a file that is missing or damaged tells of nothing."""
        try:
            return Origin.model_validate_json(self.origin_file.read_bytes())
        except (OSError, ValidationError):
            return Origin()

    def write_state(self, state: RunState) -> None:
        """Replace the state in one piece."""
        replace_file(self.state_file, state.model_dump_json(indent=1))

    def wish(self, wish: Wish) -> None:
        """Leave a wish for the supervisor and the trainer; asking twice is asking once."""
        self.wishes.mkdir(exist_ok=True)
        (self.wishes / wish).touch()

    def wished(self) -> Wish | None:
        """Return the strongest wish that is waiting."""
        return next((wish for wish in reversed(get_args(Wish)) if (self.wishes / wish).exists()), None)

    def request(self, request: Request) -> None:
        """Ask for something that the run does on its way, at its next step."""
        self.wishes.mkdir(exist_ok=True)
        (self.wishes / request).touch()

    def requested(self, request: Request) -> bool:
        """Tell whether something is asked for that has not been done yet."""
        return (self.wishes / request).exists()

    def grant(self, request: Request) -> None:
        """Note that what was asked for is being done; whoever asks from now on asks anew."""
        (self.wishes / request).unlink(missing_ok=True)

    def has_saved_since(self, then: float | None) -> bool:
        """Tell whether there is a checkpoint that was written after a time (unix seconds), any if `None`."""
        return any(folder.stat().st_mtime >= (then or 0) for folder in self.checkpoints.glob("checkpoint-*"))

    def clear_wishes(self) -> None:
        """Remove the wishes: they have been granted, or the run has ended without them."""
        for wish in (*get_args(Wish), *get_args(Request)):
            (self.wishes / wish).unlink(missing_ok=True)


def create_run(
    runs: Path, config: RunConfig, origin: Origin | None = None, furnish: Callable[[RunDir], None] | None = None
) -> RunDir:
    """Make the folder of a new, queued run and return it.

    `furnish` puts things into it; nobody sees the run before that is done.
    """
    run = _new_folder(runs, config)
    run.wishes.mkdir()
    secret = config.notify.url is not None
    replace_file(run.config_file, config.model_dump_json(indent=1, context=SECRETS), mode=0o600 if secret else 0o666)
    if origin is not None:
        replace_file(run.origin_file, origin.model_dump_json(indent=1))
    if furnish is not None:
        furnish(run)
    run.write_state(RunState(created_at=time.time()))
    return run


def _new_folder(runs: Path, config: RunConfig) -> RunDir:
    """Make a folder that was not there; of many runs in one second two may draw the same id."""
    while True:
        run = RunDir(runs / new_run_id(config))
        with suppress(FileExistsError):
            run.path.mkdir(parents=True)
            return run


def open_run(runs: Path, run_id: str) -> RunDir:
    """Return the folder of an existing run. Raises `RunNotFound`, also for ids that try to leave the folder."""
    run = RunDir(runs / run_id)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,127}", run_id) or not run.state_file.is_file():
        raise RunNotFound(f"There is no run {run_id!r}.", "`python -m gemma_ft runs` lists those that exist.")
    return run


def list_runs(runs: Path) -> list[RunDir]:
    """Return every run in the folder, newest first; the id begins with the time, so names sort by it.

    A name with a dot in front is that of a run that is being deleted.
    """
    found = [RunDir(path) for path in runs.iterdir() if path.name[0] != "."] if runs.is_dir() else []
    return sorted((run for run in found if run.state_file.is_file()), key=lambda run: run.run_id, reverse=True)


def new_run_id(config: RunConfig) -> str:
    """Make an id such as `20261123-141502-capitals-lora-7f3a`: sortable by time, unique, safe in paths."""
    plain = unicodedata.normalize("NFKD", config.name).encode("ascii", "ignore").decode().lower()
    label = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:32].strip("-") or "run"
    objective = "dpo-" if config.method.objective == "dpo" else ""
    method = config.method.adapter if config.method.adapter != "none" else "full"
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{label}-{objective}{method}-{secrets.token_hex(2)}"


def replace_file(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Write `text` beside `path` and rename it into place: a reader sees the old or the new file, never a part.

    `mode` says who may read and write it, within what the person's umask allows.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
