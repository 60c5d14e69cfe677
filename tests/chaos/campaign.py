"""Many cases, in several worlds at once, and what became of them as a table.

Promises that each case is done, that a world in which something went wrong is not used again, and that what is needed
to look into a failure is kept under `build/chaos`. A world serves cases of pages that resume by themselves, or others.
"""

from __future__ import annotations

import json
import queue
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from chaos.cases import Case
from chaos.judge import Reference, refer
from chaos.trial import Outcome, carry_out
from chaos.world import Broken, World, until
from conftest import ROOT
from gemma_ft.rundir import ACTIVE
from hub_server import HubServer

KEPT = ROOT / "build" / "chaos"


@contextmanager
def campaign(cases: Sequence[Case], models: Path, *, worlds: int = 2) -> Iterator[dict[Case, Future[Outcome]]]:
    """Do the cases in threads, one for each world; yields at once what each case will have come to."""
    outcomes: dict[Case, Future[Outcome]] = {case: Future() for case in cases}
    with HubServer() as hub, tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        waiting = {auto: _queue([case for case in cases if case.auto == auto]) for auto in (False, True)}
        reference = _once(lambda: _reference(Path(folder) / "reference", models, hub))
        threads = []
        for number in range(worlds):
            order = [waiting[number % 2 == 1], waiting[number % 2 == 0]]
            worker = _Worker(Path(folder) / f"world-{number}", models, hub, reference, outcomes)
            threads.append(threading.Thread(target=worker.work, args=[order], name=f"world {number}"))
            threads[-1].start()
        try:
            yield outcomes
        finally:
            for cases_left in waiting.values():
                _empty(cases_left)
            for thread in threads:
                thread.join()


class _Worker:
    """Does cases one after another, in a world that fits them."""

    def __init__(
        self,
        folder: Path,
        models: Path,
        hub: HubServer,
        reference: Callable[[], Reference],
        outcomes: dict[Case, Future[Outcome]],
    ) -> None:
        self._folder, self._models, self._hub = folder, models, hub
        self._reference, self._outcomes = reference, outcomes
        self._world: World | None = None
        self._made = 0

    def work(self, queues: list[queue.SimpleQueue[Case]]) -> None:
        """Do what is in the first queue, then help with the second."""
        try:
            for cases in queues:
                while (case := _next(cases)) is not None:
                    self._do(case)
        finally:
            self._leave()

    def _do(self, case: Case) -> None:
        future = self._outcomes[case]
        try:
            reference = self._reference()
            world = self._fitting(case)
            outcome = carry_out(case, world, reference)
            if outcome.problems:
                _keep(world, outcome)
                self._leave()
            future.set_result(outcome)
        except BaseException as exc:
            future.set_exception(exc)
            raise

    def _fitting(self, case: Case) -> World:
        if self._world is None or self._world.auto != case.auto:
            self._leave()
            self._made += 1
            self._world = World(self._folder / str(self._made), self._models, self._hub, auto=case.auto)
        return self._world

    def _leave(self) -> None:
        if self._world is not None:
            self._world.close()
            self._world = None


def _reference(home: Path, models: Path, hub: HubServer) -> Reference:
    """Return what the run comes to when nothing happens to it."""
    world = World(home, models, hub, auto=False)
    try:
        world.start_app()
        run = world.start_run(None)
        until(lambda: run.state().status not in ACTIVE, "the run to which nothing happens")
        if run.state().status != "finished":
            raise Broken(f"the run to which nothing happens did not finish: {run.state()}")
        return refer(run)
    finally:
        world.close()


def _once(make: Callable[[], Reference]) -> Callable[[], Reference]:
    lock, made = threading.Lock(), list[Reference]()

    def get() -> Reference:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


def _keep(world: World, outcome: Outcome) -> None:
    """Copy what tells of a failure: the run's folder without its weights, and the page's log."""
    place = KEPT / str(outcome.case)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if outcome.folder:
        shutil.copytree(outcome.folder, place / "run", ignore=shutil.ignore_patterns("*.safetensors", "*.pt"))
    for log in world.home.glob("*.log"):
        shutil.copy(log, place)
    (place / "problems.txt").write_text("\n".join(outcome.problems))


def record(outcome: Outcome) -> None:
    """Add an outcome to `build/chaos/results.jsonl`, seed and all."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def line(outcome: Outcome) -> str:
    """Return an outcome as a line."""
    truth = "-" if outcome.truth is None else f"{outcome.truth:.1f} s"
    if not outcome.possible:
        return f"{outcome.case!s:<36} not possible on this machine"
    verdict = "ok" if not outcome.problems else f"BROKEN: {outcome.problems[0].strip().splitlines()[-1][:200]}"
    hit = "hit" if outcome.hit else "missed"
    return (
        f"{outcome.case!s:<36} {hit:<6} {outcome.before:<11} true after {truth:<6} lost {outcome.lost} "
        f"resumed {outcome.resumes} in {outcome.seconds:4.0f} s  {verdict}"
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a table of faults and victims: cases, those that came in their phase, and those in which all held."""
    rows = ["| fault | victim | cases | in their phase | all held |", "|---|---|---|---|---|"]
    groups = Counter((o.case.fault, o.case.victim) for o in outcomes)
    for (fault, victim), number in sorted(groups.items()):
        ours = [o for o in outcomes if (o.case.fault, o.case.victim) == (fault, victim)]
        hits, good = sum(o.hit for o in ours), sum(not o.problems for o in ours)
        rows.append(f"| {fault} | {victim} | {number} | {hits} | {good} |")
    phases = Counter(o.case.phase for o in outcomes)
    hits_by_phase = ", ".join(
        f"{phase} {sum(o.hit for o in outcomes if o.case.phase == phase)}/{n}" for phase, n in phases.items()
    )
    rows += ["", f"In their phase: {hits_by_phase}."]
    return "\n".join(rows)


def _queue(cases: Sequence[Case]) -> queue.SimpleQueue[Case]:
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        waiting.put(case)
    return waiting


def _next(cases: queue.SimpleQueue[Case]) -> Case | None:
    try:
        return cases.get_nowait()
    except queue.Empty:
        return None


def _empty(cases: queue.SimpleQueue[Case]) -> None:
    while _next(cases) is not None:
        pass
