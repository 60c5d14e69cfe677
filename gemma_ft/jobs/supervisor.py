"""`python -m gemma_ft.jobs.supervisor RUN_DIR`: the parent of one trainer, from its start to its last state.

Promises that the state on disk is true while it lives, that a wish to stop is climbed up to SIGKILL of the whole
group, and that nothing of the trainer is left when it ends: not of its group, nor of the processes that train together,
which lead groups of their own. It imports no torch and no gradio, needs neither
page nor terminal, and is small on purpose: it must not die. If it fails all the same, it takes the trainer along.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from gemma_ft.errors import ErrorReport
from gemma_ft.events import FactWriter, read_facts
from gemma_ft.full_disk import is_full_disk
from gemma_ft.jobs.launch import plan_launch
from gemma_ft.jobs.outcome import conclude
from gemma_ft.jobs.processes import identify, signal_group
from gemma_ft.jobs.spawn import own_environment, spawn
from gemma_ft.monitor.machine import MachineSampler
from gemma_ft.redaction import redact_output
from gemma_ft.rundir import RunDir, RunState, StopProgress, Wish

TICK_SECONDS = 0.2
SAMPLE_SECONDS = 1.0
PATIENCE_SECONDS: dict[Wish, float] = {"stop": 600.0, "cancel": 4.0}
"""How long the trainer may take to leave by itself: time to save a large model, or time to notice."""
TERMINATE_SECONDS = 4.0


class Supervisor:
    """Starts the trainer of one run and follows it to its end."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._leave = threading.Event()
        before = run.state()
        self._state = RunState(
            status="preparing",
            phase="starting",
            created_at=before.created_at,
            started_at=time.time(),
            heartbeat=time.time(),
            attempt=before.attempt if before.status == "queued" else before.attempt + 1,
            supervisor=identify(os.getpid()),
        )
        self._family: list[psutil.Process] = []
        self._read_from = run.events.stat().st_size if run.events.exists() else 0

    def follow(self) -> None:
        """Run the trainer to its end, whatever that end is, and write down what became of it."""
        self._run.write_state(self._state)
        token = os.environ.get("HF_TOKEN")
        launch = plan_launch(self._run)
        trainer = spawn(
            launch.module,
            launch.arguments,
            log=self._run.log,
            environment=own_environment(hub_token=token) | launch.environment,
        )
        try:
            self._change(trainer=identify(trainer.pid))
            self._watch(trainer.pid)
        finally:
            # The dead leader is not reaped yet, so that its number can belong to nobody else.
            signal_group(trainer.pid, signal.SIGKILL)
            self._end_family()
            exit_code = trainer.wait()
        self._write_last(conclude(self._run, self._state, exit_code))
        self._run.clear_wishes()

    def ask_to_leave(self, *_: object) -> None:
        """Take SIGTERM (the machine goes down) as a wish to stop and save."""
        self._leave.set()

    def _watch(self, trainer: int) -> None:
        """Follow the trainer until it has ended (or is a zombie: it is not reaped here)."""
        sampler = MachineSampler(self._run.path)
        samples = FactWriter(self._run.system, held_bytes=0)
        next_sample = 0.0
        while identify(trainer) is not None:
            if time.monotonic() >= next_sample:
                next_sample = time.monotonic() + SAMPLE_SECONDS
                self._change(heartbeat=time.time())
                self._remember_family(trainer)
                with survives():
                    samples.append("sample", **sampler.sample(trainer))
            self._follow_phase()
            self._climb(trainer)
            time.sleep(TICK_SECONDS)
        samples.close()

    def _remember_family(self, trainer: int) -> None:
        with survives():
            self._family = psutil.Process(trainer).children(recursive=True)

    def _end_family(self) -> None:
        """Kill what is left of the trainer's descendants; psutil knows them by their creation, too."""
        for process in self._family:
            with survives(), suppress(psutil.NoSuchProcess):
                process.kill()

    def _change(self, **changes: object) -> None:
        """Change the state, here at once and on the disk as soon as the disk lets us."""
        self._state = self._state.model_copy(update=changes)
        with survives():
            self._run.write_state(self._state)

    def _write_last(self, state: RunState) -> None:
        """Write the final state. On a full disk wait for room, unless somebody cancels or this process has to leave."""
        while True:
            try:
                return self._run.write_state(state)
            except OSError as exc:
                if not is_full_disk(exc) or self._leave.is_set() or self._run.wished() == "cancel":
                    raise
            time.sleep(TICK_SECONDS)

    def _follow_phase(self) -> None:
        facts, self._read_from = read_facts(self._run.events, self._read_from)
        phases = [str(fact["phase"]) for fact in facts if fact.get("event") == "phase"]
        if not phases or phases[-1] == self._state.phase:
            return
        trains = "training" in phases and self._state.status == "preparing"
        self._change(phase=phases[-1], status="training" if trains else self._state.status)

    def _climb(self, group: int) -> None:
        """Take the next rung of the stop ladder when there is a wish and its time has come."""
        wish: Wish | None = self._run.wished() or ("stop" if self._leave.is_set() else None)
        stop = self._state.stop
        if wish and (stop is None or (wish == "cancel" and stop.wish == "stop")):
            with survives():
                self._run.wish(wish)
            due = time.time() + PATIENCE_SECONDS[wish]
            self._change(status="stopping", stop=StopProgress(wish=wish, next_rung_at=due))
        elif stop and stop.next_rung_at and time.time() >= stop.next_rung_at:
            if stop.rung == "asked":
                signal_group(group, signal.SIGTERM)
                due = time.time() + TERMINATE_SECONDS
                self._change(stop=StopProgress(wish=stop.wish, rung="terminated", next_rung_at=due))
            else:
                signal_group(group, signal.SIGKILL)
                self._change(stop=StopProgress(wish=stop.wish, rung="killed"))


@contextmanager
def survives() -> Iterator[None]:
    """Go on when a sample or a heartbeat cannot be taken or written (a full disk): the trainer needs its parent."""
    try:
        yield
    except (OSError, psutil.Error) as exc:
        if not is_full_disk(exc):  # Its own log would take the little room that comes.
            traceback.print_exc()


def main(path: str) -> int:
    """Supervise the run in this folder; returns 1 when another supervisor has it already, or when this one failed."""
    redact_output(os.environ.get("HF_TOKEN"))
    run = RunDir(Path(path))
    with (run.path / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 1
        supervisor = Supervisor(run)
        signal.signal(signal.SIGTERM, supervisor.ask_to_leave)
        try:
            supervisor.follow()
        except Exception as exc:
            # The outermost frame of a child: what is not written down here is lost.
            report = ErrorReport(
                kind="bug",
                title="The supervisor of this run failed",
                what_happened=f"{type(exc).__name__}: {exc}",
                what_to_do="Check the disk and supervisor.log in the run's folder, then resume the run.",
            )
            run.write_state(
                run.state().model_copy(update={"status": "failed", "error": report, "ended_at": time.time()})
            )
            raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
