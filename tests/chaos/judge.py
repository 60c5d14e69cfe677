"""What has to hold after something happened, whatever it was.

Promises that each check looks at the page's own answers and at files and processes, and says in words what is wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from gradio_client.exceptions import AppError

from chaos.world import SAVE_EVERY, STEPS, Broken, Follower, Page, World, tiny_run, until
from conftest import answers
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import ACTIVE, RunDir

if TYPE_CHECKING:
    from chaos.trial import Outcome

TRUTH_SECONDS = 5.0
NOTICE_SECONDS = 10.0
"""How long the page may take to say that a training does not move."""
MOST_RESUMES = 3
ATTENDED = {"supervisor", "trainer"}


@dataclass(frozen=True, slots=True)
class Reference:
    """What the tiny run comes to when nothing happens: its weights, and the loss after each step."""

    weights: str
    losses: tuple[float, ...]
    held_out: tuple[float, ...]


def refer(run: RunDir) -> Reference:
    """Return what a finished run came to."""
    facts = RunFacts(run.events).refresh()
    losses = tuple(float(fact["loss"]) for fact in facts.steps)
    return Reference(weights_of(run), losses, tuple(float(fact["loss"]) for fact in facts.evals))


def weights_of(run: RunDir) -> str:
    """Return a digest of the result's weights; empty when there are none."""
    try:
        return hashlib.sha256((run.model / "adapter_model.safetensors").read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def becomes_true(world: World) -> float:
    """Wait until what the page says of every run is true, and return how long that took. Raises `Broken`."""
    lies: list[str] = ["nothing was asked"]

    def is_true() -> bool:
        lies[:] = _lies(world, world.ask("runs"))
        return not lies

    try:
        return until(is_true, "the truth", timeout=TRUTH_SECONDS, every=0.1)
    except Broken as exc:
        raise Broken(f"the page still lies after {TRUTH_SECONDS:.0f} s: {'; '.join(lies)}") from exc


def _lies(world: World, told: list[dict[str, Any]]) -> list[str]:
    """Compare what is said of each run with the processes that there are."""
    listed = {summary["run_id"] for summary in told}
    lost = {path.parent.name for path in (world.home / "runs").glob("*/state.json")} - listed
    lies = [f"{run_id} is not listed" for run_id in lost | (set(world.finished) - listed)]
    busy = _busy(world)
    for summary in told:
        run_id, status = summary["run_id"], summary["status"]
        if status in ACTIVE and not busy.get(run_id):
            lies.append(f"{run_id} is said to be {status}, but nobody works on it")
        if status not in ACTIVE and busy.get(run_id):
            lies.append(f"{run_id} is said to be {status}, but has {sorted(busy[run_id])}")
        if status == "finished" and not summary["has_model"]:
            lies.append(f"{run_id} is said to be finished, but has no model")
    return lies


def _busy(world: World) -> dict[str, set[str]]:
    """Return for each run the roles of the processes that work on it."""
    busy: dict[str, set[str]] = {}
    for pid, role in world.processes().items():
        if role in ATTENDED:
            with suppress(psutil.Error):
                if command := psutil.Process(pid).cmdline():
                    busy.setdefault(Path(command[-1]).name, set()).add(role)
    return busy


def reaches_its_end(world: World, run: RunDir, outcome: Outcome, *, auto: bool) -> None:
    """See the run finish, resuming it as a person would. Raises `Broken` when it does not."""
    for _ in range(MOST_RESUMES + 1):
        until(lambda: run.state().status not in ACTIVE, f"the end of {run.run_id}")
        told = world.ask("run", run.run_id)
        if told["status"] == "finished":
            return
        if told["status"] == "failed" and not (told["error"] and told["error"]["what_to_do"]):
            raise Broken("it failed, and the page does not say why")
        if auto and told["status"] == "interrupted":
            until(lambda: run.state().status != "interrupted", "the run to be resumed by itself", timeout=15)
            continue
        outcome.resumes += 1
        with suppress(AppError):  # it may go on by itself in this moment; what becomes of it is looked at anyway
            world.ask("resume_run", run.run_id)
    raise Broken(f"it did not finish although it was resumed {MOST_RESUMES} times: {world.ask('run', run.run_id)}")


def is_as_it_should_be(
    world: World, run: RunDir, reference: Reference, follower: Follower, outcome: Outcome, repo: str | None
) -> None:
    """Look at the finished run and at everything that was there before; add what is wrong to the outcome."""
    problems = outcome.problems
    came_to = refer(run)
    if came_to.weights != reference.weights:
        problems.append("the weights are not those of a run to which nothing happens")
    if came_to.losses != reference.losses:
        problems.append(f"the curve has a seam: {_differences(came_to.losses, reference.losses)}")
    if came_to.held_out != reference.held_out:
        problems.append(f"the held-out losses differ: {_differences(came_to.held_out, reference.held_out)}")
    outcome.lost = follower.lost()
    if outcome.lost > SAVE_EVERY:
        problems.append(f"{outcome.lost} steps were lost; a checkpoint is written every {SAVE_EVERY}")
    for run_id, weights in world.finished.items():
        if weights_of(RunDir(world.home / "runs" / run_id)) != weights:
            problems.append(f"the finished model of {run_id} is missing or another one")
    if came_to.weights:
        world.finished[run.run_id] = came_to.weights
    if repo is not None:
        problems.extend(_publication(world, run, repo))
    problems.extend(_leftovers(world, run))


def _differences(found: tuple[float, ...], wanted: tuple[float, ...]) -> str:
    if len(found) != len(wanted):
        return f"{len(found)} points instead of {len(wanted)}"
    return ", ".join(
        f"point {n}: {a} instead of {b}" for n, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b
    )


def _publication(world: World, run: RunDir, repo: str) -> list[str]:
    """The model is on the Hub as it is here, or the page says that it is not."""
    if world.ask("run", run.run_id)["error"]:
        return []
    there = world.hub.files(repo).get("adapter_model.safetensors", b"")
    same = hashlib.sha256(there).hexdigest() == weights_of(run)
    return [] if same else ["the page says nothing, but the Hub has not got the model"]


def _leftovers(world: World, run: RunDir) -> list[str]:
    """Nothing of the run is left: no process, no lock, no place in the line, nothing half-written."""
    found = []
    try:
        until(lambda: not _busy(world), "the last process", timeout=10)
    except Broken:
        found.append(f"processes are left: {_busy(world)}")
    strange = [f"{role} {pid}" for pid, role in world.processes().items() if role == "other"]
    apps = [pid for pid, role in world.processes().items() if role == "app"]
    found += [f"a process of nobody is left: {name}" for name in strange]
    found += [] if len(apps) == 1 else [f"{len(apps)} pages serve one home"]
    found += [
        f"{path} is still locked" for path in world.home.rglob("*.lock") if path.name != "app.lock" and _held(path)
    ]
    queue = world.home / "queue"
    waiting = [path.name for path in queue.iterdir() if path.name[0] != "."] if queue.is_dir() else []
    found += [f"{name} still stands in line" for name in waiting]
    found += [f"{path.name} is left" for path in run.path.glob(".*")]
    return found


def _held(path: Path) -> bool:
    """Tell whether somebody holds a lock for longer than a moment."""

    def is_free() -> bool:
        file = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(file)
        return True

    try:
        until(is_free, "a lock", timeout=5)
    except Broken:
        return True
    return False


def says_that_it_does_not_move(world: World, run: RunDir) -> None:
    """The page says within a bound that a training which hangs does not move. Raises `Broken`."""
    told = lambda: "does not move" in world.page.view(run)["detail"]  # noqa: E731
    until(told, "the page to say that nothing moves", timeout=NOTICE_SECONDS, every=0.5)


def answers_although_its_engine_hangs(world: World) -> None:
    """A page whose engine hangs says so to whoever asked it, and the next question is answered. Raises `Broken`."""
    world.ask("runs", timeout=20)
    asked = tiny_run(None).model_dump(mode="json")
    with suppress(AppError):  # whether this one is answered depends on when the engine was halted
        world.ask("check_run", asked, timeout=60)
    if not world.ask("check_run", asked, timeout=60)["ok"]:
        raise Broken("after its engine hung, the page finds something wrong with a good configuration")


def second_app_only_reads(world: World, port: int) -> None:
    """A second page on the same home says so and starts nothing, or refuses to start and says why. Raises `Broken`."""
    process = world.spawn_app(port)
    try:
        page = Page(port)
        until(lambda: process.poll() is not None or answers(page.url), "the second page")
        if process.poll() is None:
            _refuses(page)
    finally:
        process.terminate()
        process.wait(30)


def _refuses(second: Page) -> None:
    try:
        second.ask("start_run", tiny_run(None).model_dump(mode="json"))
    except AppError:
        return
    raise Broken("a second page on the same home started a run")


assert STEPS % SAVE_EVERY, "the last steps must not be those of a checkpoint"
