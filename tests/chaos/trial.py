"""The course of one case: a run is started, something happens to it in a phase, and it is seen to its end.

Promises that what went wrong is told in words with everything else that is known of the case, and that the world can
be used for the next case if nothing went wrong. What has to hold is said in `judge.py`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
import traceback
from dataclasses import dataclass, field

from chaos import faults, judge
from chaos.cases import Case
from chaos.world import OWNER, PATIENCE, Broken, Follower, World, tiny_run, until
from conftest import free_port
from gemma_ft.rundir import ACTIVE, RunDir

HALT_SECONDS = 6.0
"""How long a whole machine stands still, and how long a disk stays full."""


@dataclass
class Outcome:
    """What became of a case. `hit` says whether the fault really came in its phase; `truth` is the time, in seconds
    from the first answer of the page, until what it said was true; `resumes` counts how often somebody had to ask.
    A case that this machine cannot have is not `possible`."""

    case: Case
    possible: bool = True
    hit: bool = False
    truth: float | None = None
    before: str = ""
    lost: int = 0
    resumes: int = 0
    seconds: float = 0.0
    folder: str = ""
    problems: list[str] = field(default_factory=list)


def carry_out(case: Case, world: World, reference: judge.Reference) -> Outcome:
    """Do one case and judge it."""
    outcome, began = Outcome(case, possible=case.fault != "disk" or world.disk_is_small), time.monotonic()
    if not outcome.possible:
        return outcome
    try:
        _carry_out(case, world, reference, outcome)
    except Broken as exc:
        outcome.problems.append(str(exc))
    except Exception:  # noqa: BLE001 - a case that fails in a way that nobody thought of is the most wanted one
        outcome.problems.append(traceback.format_exc())
    outcome.seconds = time.monotonic() - began
    return outcome


def _carry_out(case: Case, world: World, reference: judge.Reference, outcome: Outcome) -> None:
    world.start_app()
    repo = f"{OWNER}/chaos-{case.seed}-{case.victim}-{case.fault}" if case.phase == "pushing" else None
    if case.victim == "engine":
        world.ask("check_run", tiny_run(None).model_dump(mode="json"))
    device = _take_device(world) if case.phase == "queued" else None
    try:
        engines = [pid for pid, role in world.processes().items() if role == "engine"]
        run = world.start_run(repo)
        outcome.folder = str(run.path)
        follower = Follower(run)
        until(lambda: follower.is_in(case.phase) or _is_over(run), f"the phase {case.phase}", every=0.002)
        threading.Event().wait(case.delay)
        _strike(case, _pids(case, world, run, engines), world, run, follower, outcome)
        outcome.before = run.state().status
        _recover(case, world, run)
        outcome.truth = judge.becomes_true(world)
    finally:
        if device is not None:
            os.close(device)
    if case.victim == "engine":
        judge.answers_although_its_engine_hangs(world)
    judge.reaches_its_end(world, run, outcome, auto=case.auto)
    judge.is_as_it_should_be(world, run, reference, follower, outcome, repo)


def _is_over(run: RunDir) -> bool:
    return run.state().status not in ACTIVE


def _take_device(world: World) -> int:
    """Hold the only device, as another run of this home does, so that the next run has to wait; returns the file."""
    folder = world.home / "devices"
    folder.mkdir(exist_ok=True)
    file = os.open(folder / "cpu.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _strike(case: Case, victims: list[int], world: World, run: RunDir, follower: Follower, outcome: Outcome) -> None:
    """Do the fault and note whether the run was in the phase both before and after it."""
    hit = follower.is_in(case.phase)
    match case.fault:
        case "kill" | "torn":
            (faults.kill_at_once if case.victim == "all" else _kill)(victims)
        case "hang":
            faults.send(victims, signal.SIGSTOP)
        case "power" | "clock" | "number":
            faults.kill_at_once(victims)
        case "disk":
            faults.fill(world.home)
    outcome.hit = hit and follower.is_in(case.phase)
    follower.mark()
    _spoil(case, run)
    follower.mark_files()


def _spoil(case: Case, run: RunDir) -> None:
    """Do what the fault does to files, now that nobody writes them."""
    chance = case.random("files")
    match case.fault:
        case "torn":
            faults.tear(run, TORN[case.victim], chance)
        case "power":
            faults.lose_tail(run, chance)
        case "clock":
            faults.set_clock_back(run)
        case "number":
            faults.give_numbers_away(run, os.getpid())


TORN = {"trainer": ("events.jsonl", "output.log"), "supervisor": ("system.jsonl",), "all": faults.APPENDED}


def _kill(pids: list[int]) -> None:
    faults.send(pids, signal.SIGKILL)


def _pids(case: Case, world: World, run: RunDir, engines: list[int]) -> list[int]:
    """Return the processes that the fault comes to, in a random order."""
    state = run.state()
    assert world.app is not None
    own = {"app": world.app.pid, "supervisor": state.supervisor and state.supervisor.pid}
    own["trainer"] = state.trainer and state.trainer.pid
    wanted = own if case.victim == "all" else {case.victim: own.get(case.victim)}
    pids = [pid for pid in wanted.values() if pid]
    pids += engines if case.victim in ("engine", "all") else []
    case.random("order").shuffle(pids)
    return pids


def _recover(case: Case, world: World, run: RunDir) -> None:
    """Do what a person does then: start the page again, wake the machine up, stop what hangs."""
    if case.fault == "two_apps":
        judge.second_app_only_reads(world, free_port())
    elif case.fault == "disk":
        threading.Event().wait(case.random("stay").uniform(1, HALT_SECONDS))
        faults.make_room(world.home)
    elif case.fault == "hang" and case.victim == "all":
        threading.Event().wait(case.random("stay").uniform(1, HALT_SECONDS))
        faults.send([pid for pid, _ in world.processes().items()], signal.SIGCONT)
    elif case.fault == "hang":
        _end_hang(case, world, run)
    elif case.victim in ("app", "all"):
        world.reap_app()
    world.start_app()


def _end_hang(case: Case, world: World, run: RunDir) -> None:
    if case.victim == "app" and world.app is not None:
        if case.phase != "queued":
            until(lambda: _is_over(run), "the end of a run whose page hangs")
        if case.random("wake").random() < 0.5:
            faults.send([world.app.pid], signal.SIGCONT)
        else:
            faults.send([world.app.pid], signal.SIGKILL)
            world.reap_app()
    elif case.victim == "trainer" and not _is_over(run):
        judge.says_that_it_does_not_move(world, run)
        world.ask("stop_run", run.run_id, False)
        until(lambda: _is_over(run), "the end of a trainer that hangs and was cancelled", timeout=30)
    elif case.victim == "supervisor":
        until(lambda: "supervisor" not in _halted(world), "the end of a supervisor that hangs", timeout=PATIENCE)


def _halted(world: World) -> set[str]:
    """Return the roles of processes that a signal has stopped."""
    stat = {pid: _state_letter(pid) for pid in world.processes()}
    return {role for pid, role in world.processes().items() if stat.get(pid) == "T"}


def _state_letter(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""
