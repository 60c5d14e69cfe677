"""A home that has grown, and a page that has lived long: it stays quick, and nothing leaks."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest

from conftest import wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import DataConfig, RunConfig
from gemma_ft.events import FactWriter
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.summary import summarise
from gemma_ft.rundir import RunDir, create_run
from gemma_ft.settings import Settings
from gemma_ft.ui.live import LiveRuns

RUNS, EVENTS = 200, 100_000
CYCLES = 50
START_UP_SECONDS, LISTING_SECONDS, NEWS_SECONDS = 1.0, 0.2, 0.2


@pytest.fixture
def grown(settings: Settings) -> JobManager:
    """A home with many finished runs, one of which has very many facts."""
    for number in range(RUNS):
        run = create_run(settings.runs, recipes.try_it())
        _finish(run, steps=EVENTS if number == RUNS - 1 else 3)
    return JobManager(settings)


def _finish(run: RunDir, *, steps: int) -> None:
    facts = FactWriter(run.events)
    for step in range(1, steps + 1):
        facts.append("step", step=step, max_steps=steps, loss=1 / step, learning_rate=1e-4, epoch=step / steps)
    facts.append("result", outcome="finished", attempt=1, error=None)
    facts.close()
    run.model.mkdir()
    now = time.time()
    run.write_state(run.state().model_copy(update={"status": "finished", "started_at": now, "ended_at": now}))


def seconds(call: Callable[[], object], times: int = 5) -> float:
    """Return how long a call takes, the quickest of several."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken)  # what else the machine does can only add to it


def test_200_runs_and_100_000_facts_are_no_burden(grown: JobManager) -> None:
    def listing() -> int:
        return len([summarise(run, grown.state(run)) for run in grown.runs()])

    assert listing() == RUNS
    start_up = seconds(grown.reconcile)
    listed = seconds(listing)
    long = max(grown.runs(), key=lambda run: run.events.stat().st_size)
    live = LiveRuns(grown)
    first = seconds(lambda: live.poll({"run": long.run_id}), 1)
    answer = live.poll({"run": long.run_id})
    while "reading" in answer:  # A long run is read a piece at a call.
        answer = live.poll(answer["cursor"])
    cursor = answer["cursor"]
    again = seconds(lambda: live.poll(cursor))
    print(f"start-up {start_up:.3f} s, listing {listed:.3f} s, first look {first:.3f} s, news {again:.3f} s")
    assert start_up < START_UP_SECONDS
    assert listed < LISTING_SECONDS
    assert again < NEWS_SECONDS
    assert cursor["rows"] == EVENTS


def test_50_starts_and_stops_leave_no_process_thread_or_open_file(settings: Settings) -> None:
    """Most are stopped before they begin, which is quick; a few get as far as a trainer, which fails."""
    manager = JobManager(settings)
    fails = RunConfig(data=DataConfig(id="nothing"))
    me = psutil.Process()

    def cycle(number: int) -> None:
        run = manager.start(fails)
        if number % 25:
            manager.stop(run.run_id, save=False)
        wait_for_end(manager, run, timeout=60)

    cycle(0)
    wait_until(lambda: not _own(settings), what="the end of the first run's processes")
    before = me.num_fds(), me.num_threads(), len(me.children(recursive=True))
    for number in range(CYCLES):
        cycle(number)
    wait_until(lambda: not _own(settings), what="the end of the last run's processes")
    wait_until(
        lambda: (me.num_fds(), me.num_threads(), len(me.children(recursive=True))) <= before,
        timeout=20,
        what=f"{before} open files, threads and children again",
    )
    assert len(manager.runs()) == CYCLES + 1
    assert manager.queue.order() == []


def _own(settings: Settings) -> list[psutil.Process]:
    """Return the living processes of this home."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("GEMMA_FT_HOME") == str(settings.home)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
