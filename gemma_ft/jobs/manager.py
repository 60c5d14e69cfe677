"""The job manager: start, list, stop and resume runs. It is a reader and writer of run folders and remembers nothing.

Promises that any number of managers (the page, a terminal) on one home tell the same truth, that two runs never train
at once, and that a run whose processes are gone is said to be so as soon as anyone looks. Does not show anything.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass

from filelock import FileLock

from gemma_ft.config import RunConfig
from gemma_ft.errors import ErrorReport, RunBusy
from gemma_ft.jobs.outcome import conclude, last_line
from gemma_ft.jobs.processes import is_alive, signal_group
from gemma_ft.jobs.room import require_room
from gemma_ft.jobs.spawn import own_environment, spawn
from gemma_ft.rundir import ACTIVE, RESUMABLE, RunDir, RunState, Wish, create_run, list_runs, open_run
from gemma_ft.settings import Settings

TAKE_OVER_SECONDS = 20.0
"""How long a new supervisor may take to write its first state."""
ORPHAN_SECONDS = 600.0
"""How long a trainer that lost its supervisor may take to save and leave."""


@dataclass(frozen=True, slots=True)
class JobManager:
    """Acts on the runs of one home."""

    settings: Settings

    def start(self, config: RunConfig, *, hub_token: str | None = None) -> RunDir:
        """Make a new run and start it; returns once its supervisor has taken over.

        Raises `RunBusy` while another run is active, and `DiskError` when the disk cannot hold what it will save.
        """
        with self._lock():
            self._refuse_if_busy()
            require_room(self.settings, config)
            run = create_run(self.settings.runs, config)
            self._supervise(run, hub_token)
        return run

    def resume(self, run_id: str, *, hub_token: str | None = None) -> RunDir:
        """Go on with a stopped, failed or interrupted run from its last checkpoint, or from the start if it has none.

        Raises `RunNotFound`, `RunBusy` when the run has finished or any run is active, and `DiskError`.
        """
        with self._lock():
            run = open_run(self.settings.runs, run_id)
            self._refuse_if_busy()
            status = self.state(run).status
            if status not in RESUMABLE:
                raise RunBusy(f"The run {run_id} has {status}; there is nothing to resume.", "Start a new run instead.")
            require_room(self.settings, run.config(), run)
            run.clear_wishes()
            self._supervise(run, hub_token)
        return run

    def stop(self, run_id: str, *, save: bool = True) -> RunDir:
        """Ask a run to stop, saving a checkpoint first unless `save` is false. Returns at once; the run ends by itself.

        Raises `RunNotFound`, and `RunBusy` when the run is not active.
        """
        run = open_run(self.settings.runs, run_id)
        status = self.state(run).status
        if status not in ACTIVE:
            raise RunBusy(f"The run {run_id} has already ended ({status}).", "There is nothing to stop.")
        wish: Wish = "stop" if save else "cancel"
        run.wish(wish)
        return run

    def runs(self) -> list[RunDir]:
        """Return every run, newest first."""
        return list_runs(self.settings.runs)

    def open(self, run_id: str) -> RunDir:
        """Return one run. Raises `RunNotFound`."""
        return open_run(self.settings.runs, run_id)

    def active(self) -> RunDir | None:
        """Return the run that is going on, if there is one."""
        return next((run for run in self.runs() if self.state(run).status in ACTIVE), None)

    def state(self, run: RunDir) -> RunState:
        """Return the true state of a run; one whose processes are gone is concluded on the way."""
        state = run.state()
        if not self._is_orphaned(state):
            return state
        with FileLock(run.path / "reconcile.lock"):
            state = run.state()
            if not self._is_orphaned(state):
                return state
            if is_alive(state.trainer) and not self._is_overdue(run, state):
                return state.model_copy(update={"status": "stopping", "phase": "saving, its supervisor is gone"})
            state = conclude(run, state, exit_code=None)
            run.write_state(state)
        return state

    def _is_orphaned(self, state: RunState) -> bool:
        """An active run without a living supervisor, once a new one has had time to appear."""
        if state.status not in ACTIVE or is_alive(state.supervisor):
            return False
        return state.supervisor is not None or time.time() - state.created_at > TAKE_OVER_SECONDS

    def _is_overdue(self, run: RunDir, state: RunState) -> bool:
        """End a trainer that lost its supervisor and was cancelled, or did not leave by itself in all that time."""
        lost_for = time.time() - (state.heartbeat or state.created_at)
        overdue = run.wished() == "cancel" or lost_for > ORPHAN_SECONDS
        if overdue and state.trainer is not None:
            signal_group(state.trainer.pid, signal.SIGKILL)
        return overdue

    def _refuse_if_busy(self) -> None:
        if busy := self.active():
            raise RunBusy(f"The run {busy.run_id} is still going.", "Wait for it to end, or stop it first.")

    def _supervise(self, run: RunDir, hub_token: str | None) -> None:
        """Start a supervisor for the run and wait until it has written its first state."""
        before = run.state()
        child = spawn(
            "gemma_ft.jobs.supervisor",
            [str(run.path)],
            log=run.supervisor_log,
            environment=own_environment(hub_token=hub_token or self.settings.hub_token)
            | {"GEMMA_FT_HOME": str(self.settings.home)},
        )
        threading.Thread(target=child.wait, name=f"reap {run.run_id}", daemon=True).start()
        deadline = time.monotonic() + TAKE_OVER_SECONDS
        while run.state().supervisor == before.supervisor and child.returncode is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if run.state().supervisor == before.supervisor:
            child.kill()
            failed = {"status": "failed", "error": _did_not_start(run), "ended_at": time.time()}
            run.write_state(before.model_copy(update=failed))

    def _lock(self) -> FileLock:
        self.settings.home.mkdir(parents=True, exist_ok=True)
        return FileLock(self.settings.home / "start.lock")


def _did_not_start(run: RunDir) -> ErrorReport:
    said = last_line(run.supervisor_log) or "it said nothing"
    return ErrorReport(
        kind="bug",
        title="The run could not be started",
        what_happened=f"Its supervisor ended before it took over: {said}.",
        what_to_do="Check that the disk has room and that the requirements are installed, then resume the run.",
    )
