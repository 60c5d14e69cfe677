"""What the page's handlers may call: one value, made once in `app.py`, handed to every tab.

Promises that a visitor of a Space cannot name files of the server as data or as a model, and that the engine's memory
is free before a training starts. Shows nothing.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gemma_ft.config import DEMO_MODEL, RunConfig, parse_config
from gemma_ft.engine.client import EngineClient
from gemma_ft.errors import ConfigError, GemmaFtError, RunBusy
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.ownership import Ownership
from gemma_ft.jobs.spawn import PROJECT_ROOT, own_environment
from gemma_ft.jobs.storage import delete_checkpoints, delete_run
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings, clean_token
from gemma_ft.webhook import parse_webhook

WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Services:
    """The job manager of one installation and its engines: one for chats, an inspector that looks at data, a measurer.

    The inspector holds no model and stays while a run trains.
    """

    settings: Settings
    manager: JobManager = field(init=False)
    ownership: Ownership = field(init=False)
    engine: EngineClient = field(init=False)
    inspector: EngineClient = field(init=False)
    measurer: EngineClient = field(init=False)
    _measures: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        environment = self._environment()
        object.__setattr__(self, "manager", JobManager(self.settings))
        address = f"the page on port {self.settings.port}"
        object.__setattr__(self, "ownership", Ownership(self.settings.home / "app.lock", address))
        for name in ("engine", "inspector", "measurer"):
            client = EngineClient(self.settings.engine_log(name), environment, PROJECT_ROOT)
            object.__setattr__(self, name, client)

    def _environment(self) -> dict[str, str]:
        return own_environment(hub_token=self.settings.hub_token) | {"GEMMA_FT_HOME": str(self.settings.home)}

    @property
    def uploads(self) -> Path:
        """Where uploaded data is kept, so that a run can be repeated."""
        return self.settings.home / "uploads"

    def start(self, config: RunConfig, hub_token: str | None, request: str | None = None) -> RunDir:
        """Free the engine and start the run, or queue it. Raises `ConfigError`, `RunBusy`."""
        self.require_control()
        self.admit(config)
        self._free_engine()
        return self.manager.start(config, hub_token=hub_token, request=request)

    def resume(self, run_id: str, hub_token: str | None) -> RunDir:
        """Free the engine and resume the run, or queue it. Raises `RunNotFound`, `RunBusy`."""
        self.require_control()
        self.manager.open(run_id)
        self._free_engine()
        return self.manager.resume(run_id, hub_token=hub_token)

    def continue_run(self, run_id: str, epochs: float, hub_token: str | None, request: str | None = None) -> RunDir:
        """Train a finished run further, as a new run. Raises `RunNotFound`, `RunBusy`, `ConfigError`."""
        self.require_control()
        self._free_engine()
        return self.manager.continue_run(run_id, epochs, hub_token=hub_token, request=request)

    def delete(self, run_id: str, *, only_checkpoints: bool) -> int:
        """Delete a run or its checkpoints; return the bytes. Raises `RunNotFound`, `RunBusy`, `DiskError`."""
        self.require_control()
        remove = delete_checkpoints if only_checkpoints else delete_run
        return remove(self.manager, run_id, in_use=[run for run in (self.engine.run_id,) if run])

    def rescue(self, hub_token: str | None) -> list[RunDir]:
        """Resume every run that was interrupted; return them. Raises `RunBusy`."""
        self.require_control()
        runs = self.manager.interrupted()
        return [self.manager.resume(run.run_id, hub_token=hub_token) for run in runs]

    def in_control(self) -> bool:
        """Tell whether this page controls the runs of its home, taking control if nobody has it."""
        return self.ownership.take()

    def require_control(self) -> None:
        """Raise `RunBusy` if another page controls the runs of this home."""
        self.ownership.require()

    def watch(self) -> None:
        """Keep the runs and the engine in order while the page lives; returns at once.

        Runs that have lost their processes are concluded, queued ones keep somebody who waits for them, and the engine
        is freed also when a run begins by itself or from a terminal. Interrupted runs are resumed if the settings say
        so: those that a restart left behind, and those whose supervisor is lost while the page lives.
        """

        def look() -> None:
            pause = threading.Event()
            while True:
                # What one look cannot do (a full disk, another start that takes long) the next one does.
                with suppress(OSError, GemmaFtError):
                    if self.in_control():
                        self.manager.reconcile()
                        if self.settings.auto_resume:
                            self.manager.rescue(hub_token=self.settings.hub_token)
                    if self.manager.active() is not None:
                        self.engine.close()
                        self.measurer.close()
                pause.wait(WATCH_SECONDS)

        threading.Thread(target=look, name="watch the runs", daemon=True).start()

    def _free_engine(self) -> None:
        """Give the engine's memory to a run that is about to start, unless another run forbids that anyway."""
        if self.manager.active() is None:
            self.engine.close()
            self.measurer.close()

    def admitted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a config, whole, if this installation may use it. Raises `ConfigError`."""
        config = parse_config(values)
        self.admit(config)
        return config.model_dump(mode="json")

    def token(self, typed: str | None) -> str | None:
        """Return the token that was typed, else that of the person who runs this machine. Raises `ConfigError`."""
        return clean_token(typed) or self.settings.hub_token

    def admit(self, config: RunConfig) -> None:
        """Refuse paths of the server that come from visitors of a Space. Raises `ConfigError`."""
        if not self.settings.on_space:
            return
        for path in (config.data.path, config.data.validation_path):
            if path and not Path(path).resolve().is_relative_to(self.uploads.resolve()):
                raise ConfigError("On a Space the data must be an uploaded file.", "Upload the file in the Data step.")
        if config.notify.url and not parse_webhook(config.notify.url).encrypted:
            raise ConfigError("On a Space notices are sent over https only.", "Begin the address with https://.")
        if config.model.id != DEMO_MODEL and (config.model.is_path or Path(config.model.id).exists()):
            raise ConfigError("On a Space the model cannot be a local folder.", "Give the id of a model on the Hub.")

    @contextmanager
    def measuring(self) -> Iterator[EngineClient]:
        """Give the measurer, fresh and alone; it is ended afterwards. Raises `RunBusy` if a run trains or is measured.

        The chat's engine is freed first: what it holds would be missing.
        """
        if not self._measures.acquire(blocking=False):
            raise RunBusy("Another measurement is going on.", "Try again when it has ended.")
        try:
            if busy := self.manager.active():
                raise RunBusy(f"The run {busy.run_id} is training; it would be disturbed.", "Wait until it has ended.")
            self._free_engine()
            yield self.measurer
        finally:
            self.measurer.close()
            self._measures.release()

    def keep_upload(self, temporary: Path) -> Path:
        """Copy an upload to where it stays; the same content is kept once."""
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        kept = self.uploads / digest / temporary.name
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            aside = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
            shutil.copyfile(temporary, aside)
            aside.rename(kept)
        return kept
