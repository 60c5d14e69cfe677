"""`python -m gemma_ft.jobs.supervisor RUN_DIR`: waits for the run's turn, then is the parent of its trainer to the end.

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

from gemma_ft.events import FactWriter, read_facts
from gemma_ft.failures import explain
from gemma_ft.full_disk import is_full_disk
from gemma_ft.jobs.devices import Devices
from gemma_ft.jobs.heartbeat import beat
from gemma_ft.jobs.launch import plan_launch
from gemma_ft.jobs.less_memory import next_attempt
from gemma_ft.jobs.notify import announce_alert, announce_end
from gemma_ft.jobs.outcome import conclude
from gemma_ft.jobs.processes import signal_group
from gemma_ft.jobs.spawn import own_environment, spawn
from gemma_ft.jobs.waiting import Turn
from gemma_ft.jobs.watchdog import Watchdog
from gemma_ft.monitor.alerts import Alert
from gemma_ft.monitor.identity import identify
from gemma_ft.monitor.kernel import MemoryKills
from gemma_ft.monitor.machine import MachineSampler, Sample
from gemma_ft.redaction import redact_output
from gemma_ft.rundir import RunDir, RunState, StopProgress, Wish
from gemma_ft.settings import NOTIFY_URL, Settings

TICK_SECONDS = 0.2
SAMPLE_SECONDS = 1.0
PATIENCE_SECONDS: dict[Wish, float] = {"shutdown": 600.0, "stop": 600.0, "cancel": 4.0}
"""How long the trainer may take to leave by itself: time to save a large model, or time to notice."""
TERMINATE_SECONDS = 4.0
LOCK_SECONDS = 3.0
LOOK = "Check the disk and supervisor.log in the run's folder, then resume the run."


class Supervisor:
    """Waits for the devices of one run, starts its trainer and follows it to its end.

    `lock` is the open file that says that this run has a supervisor.
    """

    def __init__(self, run: RunDir, settings: Settings, lock: int) -> None:
        self._run = run
        self._settings = settings
        self._lock = lock
        self._leave = threading.Event()
        self._state = run.state().model_copy(update={"supervisor": identify(os.getpid()), "heartbeat": time.time()})
        self._due: float | None = None
        self._family: list[psutil.Process] = []
        self._read_from = run.events.stat().st_size if run.events.exists() else 0

    def follow(self) -> None:
        """Take the run to its end, whatever that end is, and write down what became of it.

        A run that does not wait any more, because another supervisor was here before, is left alone.
        """
        if self._state.status != "queued":
            return
        beat(self._lock)
        self._run.write_state(self._state)
        devices = self._wait()
        if devices is not None:
            try:
                self._train(devices)
            finally:
                devices.release()

    def _wait(self) -> Devices | None:
        """Wait for the run's turn; `None` when it is not wanted any more, or this process has to leave before it."""
        turn = Turn(self._run, self._settings)
        while not self._leave.is_set():
            beat(self._lock)
            if self._run.wished():
                self._run.write_state(self._state.model_copy(update={"status": "stopped", "ended_at": time.time()}))
                self._run.clear_wishes()
                turn.leave()
                return None
            devices = None
            with survives():
                devices = turn.come()
            if devices is not None:
                self._change(status="preparing", phase="starting", started_at=time.time(), heartbeat=time.time())
                turn.leave()
                return devices
            time.sleep(TICK_SECONDS)
        return None

    def _train(self, devices: Devices) -> None:
        """Run the trainer to its end; once more for each time the kernel kills it and less memory may do."""
        while True:
            kills = MemoryKills.look(os.getpid())
            exit_code = self._attempt(devices)
            ran_out = kills.rose()
            may_go_on = ran_out and not self._leave.is_set()
            again = next_attempt(self._run, self._state, exit_code) if may_go_on else None
            if again is None:
                break
            self._change(**again)
        self._write_last(conclude(self._run, self._state, exit_code, memory_ran_out=ran_out))
        self._run.clear_wishes()

    def _attempt(self, devices: Devices) -> int:
        """Run a trainer to its end and return its exit code."""
        launch = plan_launch(self._run, devices.gpus)
        trainer = spawn(
            launch.module,
            launch.arguments,
            log=self._run.log,
            environment=own_environment(hub_token=os.environ.get("HF_TOKEN")) | launch.environment,
            inherits=devices.files,
        )
        try:
            self._change(trainer=identify(trainer.pid))
            self._watch(trainer.pid)
        finally:
            # The dead leader is not reaped yet, so that its number can belong to nobody else.
            signal_group(trainer.pid, signal.SIGKILL)
            self._end_family()
            exit_code = trainer.wait()
        return exit_code

    def ask_to_leave(self, *_: object) -> None:
        """Take SIGTERM (the machine goes down) as a wish to save and to go on later."""
        self._leave.set()

    def _watch(self, trainer: int) -> None:
        """Follow the trainer until it has ended (or is a zombie: it is not reaped here)."""
        sampler = MachineSampler(self._run.path)
        samples = FactWriter(self._run.system, held_bytes=0)
        watchdog = Watchdog(self._run)
        next_sample = 0.0
        while identify(trainer) is not None:
            beat(self._lock)
            if time.monotonic() >= next_sample:
                next_sample = time.monotonic() + SAMPLE_SECONDS
                self._change(heartbeat=time.time(), stop=self._stop_on_the_clock())
                self._remember_family(trainer)
                sample: Sample = {}
                with survives():
                    sample = sampler.sample(trainer)
                    samples.append("sample", **sample)
                self._announce(watchdog.look(sample))
            self._follow_phase()
            self._climb(trainer)
            time.sleep(TICK_SECONDS)
        self._follow_phase()
        self._announce(watchdog.look({}))  # Of what the trainer said last.
        samples.close()

    def _announce(self, alerts: list[Alert]) -> None:
        for alert in alerts:
            announce_alert(self._run, self._settings, alert.title, f"{alert.message} {alert.advice}")

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
            beat(self._lock)
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
        wish: Wish | None = self._run.wished() or ("shutdown" if self._leave.is_set() else None)
        stop = self._state.stop
        if wish and (stop is None or (wish == "cancel" and stop.wish != "cancel")):
            with survives():
                self._run.wish(wish)
            self._step_up(StopProgress(wish=wish), PATIENCE_SECONDS[wish])
        elif stop and self._due is not None and time.monotonic() >= self._due:
            if stop.rung == "asked":
                signal_group(group, signal.SIGTERM)
                self._step_up(StopProgress(wish=stop.wish, rung="terminated"), TERMINATE_SECONDS)
            else:
                signal_group(group, signal.SIGKILL)
                self._step_up(StopProgress(wish=stop.wish, rung="killed"), None)

    def _step_up(self, stop: StopProgress, patience: float | None) -> None:
        self._due = None if patience is None else time.monotonic() + patience
        self._state = self._state.model_copy(update={"stop": stop})
        self._change(status="stopping", stop=self._stop_on_the_clock())

    def _stop_on_the_clock(self) -> StopProgress | None:
        """Return where a stop stands, its next rung as a time of day; that is told anew in case the clock was set."""
        stop = self._state.stop
        if stop is None or self._due is None:
            return stop
        return stop.model_copy(update={"next_rung_at": time.time() + self._due - time.monotonic()})


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
    run, settings = RunDir(Path(path)), None
    redact_output(os.environ.get("HF_TOKEN"), os.environ.get(NOTIFY_URL), *run.secrets())
    lock = os.open(run.supervisor_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if not _lock(lock):
        return 1
    try:
        settings = Settings.from_env()
        supervisor = Supervisor(run, settings, lock)
        signal.signal(signal.SIGTERM, supervisor.ask_to_leave)
        supervisor.follow()
    except Exception as exc:
        # The outermost frame of a child: what is not written down here is lost.
        report = explain(exc, os.environ.get("HF_TOKEN"))
        if report.kind == "bug":
            report = report.model_copy(update={"title": "The supervisor of this run failed", "what_to_do": LOOK})
        run.write_state(run.state().model_copy(update={"status": "failed", "error": report, "ended_at": time.time()}))
        raise
    finally:
        if settings is not None:
            announce_end(run, settings)
        os.close(lock)  # Whoever resumes the run need not wait until the notice has arrived.
    return 0


def _lock(file: int) -> bool:
    """Take the lock, waiting a moment for a supervisor that is just being ended."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(TICK_SECONDS)
        else:
            return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
