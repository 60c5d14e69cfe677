"""The job manager: start, queue, list, stop and resume runs. It is a reader and writer of run folders and remembers
nothing.

Promises that any number of managers (the page, a terminal) on one home tell the same truth, that a run which was
started is queued or trains until it ends, whatever happens to the processes, and that a run whose processes are gone is
said to be so as soon as anyone looks. Does not show anything, and deletes nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock, Timeout

from gemma_ft.config import RunConfig
from gemma_ft.errors import ErrorReport, RunBusy
from gemma_ft.jobs.continuing import continuation
from gemma_ft.jobs.notify import announce_end, notify_environment
from gemma_ft.jobs.outcome import did_not_start
from gemma_ft.jobs.queue import Queue
from gemma_ft.jobs.room import require_room
from gemma_ft.jobs.spawn import NotStarted, own_environment, spawn
from gemma_ft.jobs.truth import end_hung, is_attended, true_state
from gemma_ft.rundir import (
    ACTIVE,
    GOING,
    RESUMABLE,
    Origin,
    Request,
    RunDir,
    RunState,
    Wish,
    create_run,
    list_runs,
    open_run,
)
from gemma_ft.settings import Settings

TAKE_OVER_SECONDS = 20.0
"""How long a new supervisor may take to write its first state."""
START_SECONDS = 60.0
"""How long a start waits for another one on the same home."""
MOST_RESCUES = 3
"""How often in a row a run that saves nothing is resumed unasked: one that takes the machine down must not do so for
ever."""
REQUESTS_REMEMBERED = 100
"""Among so many of the newest runs a request is looked for that may have been made twice."""


@dataclass(frozen=True, slots=True)
class JobManager:
    """Acts on the runs of one home."""

    settings: Settings

    @property
    def queue(self) -> Queue:
        """The line of runs that wait for a device."""
        return Queue(self.settings.queue)

    def start(self, config: RunConfig, *, hub_token: str | None = None, request: str | None = None) -> RunDir:
        """Make a new run and put it into the line; returns once its supervisor has taken over.

        It starts at once if a device is free. A `request` that has made a run already (a button pressed twice, a lost
        answer) returns that run. Raises `RunBusy` while another start takes too long, and `DiskError` when the disk
        cannot hold what it will save.
        """
        with self._starting():
            if request and (made := self._made_by(request)):
                return made
            require_room(self.settings, config)
            run = create_run(self.settings.runs, config, Origin(request=request))
            self._supervise(run, hub_token)
        return run

    def resume(self, run_id: str, *, hub_token: str | None = None, rescue: bool = False) -> RunDir:
        """Go on with a stopped, failed or interrupted run from its last checkpoint, or from the start if it has none.

        It is queued like a new one. Raises `RunNotFound`, `RunBusy` when the run has finished or is not over, and
        `DiskError` when the disk cannot hold what it will save.
        """
        with self._starting():
            run = open_run(self.settings.runs, run_id)
            state = self.state(run)
            if state.status not in RESUMABLE:
                what_to_do = "Continue it for more epochs instead." if state.status == "finished" else "Let it go on."
                raise RunBusy(f"The run {run_id} is {state.status}; there is nothing to resume.", what_to_do)
            require_room(self.settings, run.config(), run)
            run.clear_wishes()
            rescues = (0 if run.has_saved_since(state.started_at) else state.rescues) + 1 if rescue else 0
            run.write_state(RunState(created_at=state.created_at, attempt=state.attempt + 1, rescues=rescues))
            self._supervise(run, hub_token)
        return run

    def continue_run(
        self, run_id: str, epochs: float, *, hub_token: str | None = None, request: str | None = None
    ) -> RunDir:
        """Train a finished run for more epochs, as a new run that goes on from its last checkpoint.

        Raises `RunNotFound`, `RunBusy` when it has not finished, `ConfigError` when it has no checkpoint to go on from.
        """
        with self._starting():
            if request and (made := self._made_by(request)):
                return made
            parent = open_run(self.settings.runs, run_id)
            if (status := self.state(parent).status) != "finished":
                raise RunBusy(f"The run {run_id} is {status}.", "Only a finished run can be continued.")
            config, origin, furnish = continuation(parent, epochs)
            require_room(self.settings, config)
            run = create_run(
                self.settings.runs, config, origin.model_copy(update={"request": request}), furnish=furnish
            )
            self._supervise(run, hub_token)
        return run

    def stop(self, run_id: str, *, save: bool = True) -> RunDir:
        """Ask a run to stop, saving a checkpoint first unless `save` is false. Returns at once; the run ends by itself.

        One that waits in line leaves it. Raises `RunNotFound`, and `RunBusy` when the run is not active.
        """
        run = open_run(self.settings.runs, run_id)
        status = self.state(run).status
        if status not in ACTIVE:
            raise RunBusy(f"The run {run_id} has already ended ({status}).", "There is nothing to stop.")
        wish: Wish = "stop" if save else "cancel"
        run.wish(wish)
        if status == "queued" and not is_attended(run, run.state().supervisor):
            with self._starting():
                self._revive(run, None)  # Nobody waits for it any more; the new supervisor hears the wish.
        return run

    def request(self, run_id: str, request: Request) -> RunDir:
        """Ask a run to save a checkpoint or to answer its questions at the next step.

        Raises `RunNotFound`, and `RunBusy` when it does not train or has no questions.
        """
        run = open_run(self.settings.runs, run_id)
        status = self.state(run).status
        if status not in ("preparing", "training"):
            raise RunBusy(f"The run {run_id} is {status}.", "This is for a run that trains.")
        if request == "sample_now" and not run.config().evaluation.prompts:
            raise RunBusy(f"The run {run_id} has no questions.", "Give it some under `evaluation.prompts` next time.")
        run.request(request)
        return run

    def move(self, run_id: str, by: int) -> None:
        """Move a queued run by so many places, to the front if negative. Raises `RunNotFound`, `RunBusy`."""
        run = open_run(self.settings.runs, run_id)
        if (status := self.state(run).status) != "queued":
            raise RunBusy(f"The run {run_id} is {status}.", "Only a run that waits can be moved.")
        self.queue.move(run_id, by)

    def runs(self) -> list[RunDir]:
        """Return every run, newest first."""
        return list_runs(self.settings.runs)

    def open(self, run_id: str) -> RunDir:
        """Return one run. Raises `RunNotFound`."""
        return open_run(self.settings.runs, run_id)

    def active(self) -> RunDir | None:
        """Return a run that has a device, the newest one, if there is any."""
        return next((run for run in self.runs() if self.state(run).status in GOING), None)

    def waiting(self) -> list[RunDir]:
        """Return the runs that wait for a device, the next one first."""
        runs = [RunDir(self.settings.runs / run_id) for run_id in self.queue.order()]
        return [run for run in runs if run.state_file.is_file() and run.state().status == "queued"]

    def state(self, run: RunDir) -> RunState:
        """Return the true state of a run; one whose processes are gone is concluded on the way."""
        return true_state(run, self.settings)

    def reconcile(self) -> None:
        """Conclude what has lost its processes, and put those who wait for queued runs back in their place.

        Raises `RunBusy` when another start takes too long.
        """
        queued = [run for run in self.runs() if self.state(run).status == "queued"]
        lost = [run for run in reversed(queued) if not is_attended(run, run.state().supervisor)]
        if lost:
            with self._starting():
                for run in lost:
                    self._revive(run, self.settings.hub_token)
        for stale in set(self.queue.order()) - {run.run_id for run in queued}:
            with self.queue.lock():
                if RunDir(self.settings.runs / stale) not in self.waiting():
                    self.queue.leave(stale)

    def interrupted(self) -> list[RunDir]:
        """Return the runs that a crash or a restart interrupted and that can go on, oldest first."""
        return [run for run in reversed(self.runs()) if self.state(run).status == "interrupted"]

    def rescue(self, *, hub_token: str | None = None) -> list[RunDir]:
        """Resume interrupted runs without being asked, except those that were too often and get no further."""
        lost = [run for run in self.interrupted() if self._may_be_rescued(run)]
        return [self.resume(run.run_id, hub_token=hub_token, rescue=True) for run in lost]

    def _may_be_rescued(self, run: RunDir) -> bool:
        state = run.state()
        return state.rescues < MOST_RESCUES or run.has_saved_since(state.started_at)

    def _made_by(self, request: str) -> RunDir | None:
        return next((run for run in self.runs()[:REQUESTS_REMEMBERED] if run.origin().request == request), None)

    def _revive(self, run: RunDir, hub_token: str | None) -> None:
        """Start a supervisor for a queued run that has none; the lock is held, so it is looked at once more."""
        state = run.state()
        if state.status == "queued" and not is_attended(run, state.supervisor):
            end_hung(run, state.supervisor)
            self._supervise(run, hub_token)

    def _supervise(self, run: RunDir, hub_token: str | None) -> None:
        """Put a queued run into the line, start its supervisor and wait until that has written its first state."""
        self.queue.join(run.run_id)
        before = run.state()
        try:
            child = spawn(
                "gemma_ft.jobs.supervisor",
                [str(run.path)],
                log=run.supervisor_log,
                environment=own_environment(hub_token=hub_token or self.settings.hub_token)
                | {"GEMMA_FT_HOME": str(self.settings.home)}
                | notify_environment(self.settings),
            )
        except NotStarted as exc:
            self._fail(run, exc.report)
            return
        threading.Thread(target=child.wait, name=f"reap {run.run_id}", daemon=True).start()
        deadline = time.monotonic() + TAKE_OVER_SECONDS
        while run.state().supervisor == before.supervisor and child.returncode is None and time.monotonic() < deadline:
            time.sleep(0.02)
        now = run.state()
        if now.supervisor == before.supervisor and now.status == "queued":
            child.kill()
            self._fail(run, did_not_start(run))

    def _fail(self, run: RunDir, error: ErrorReport) -> None:
        """Write down that a run could not be started, and tell who wants to know."""
        self.queue.leave(run.run_id)
        run.write_state(run.state().model_copy(update={"status": "failed", "error": error, "ended_at": time.time()}))
        announce_end(run, self.settings)

    @contextmanager
    def _starting(self) -> Iterator[None]:
        """One at a time on this home. Raises `RunBusy` when that takes too long."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.settings.home / "start.lock", timeout=START_SECONDS):
                yield
        except Timeout as exc:
            raise RunBusy("Another program is starting a run and does not get on with it.", "Try again.") from exc
