"""Runs in line: the order is on the disk, nobody is forgotten or overtaken, and a device has one run at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import wait_for_end, wait_until
from gemma_ft.config import ComputeConfig, DataConfig, RunConfig
from gemma_ft.errors import RunBusy
from gemma_ft.hardware import Gpu, Machine
from gemma_ft.jobs.devices import PROCESSOR, names_of, needed, take
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.queue import Queue
from gemma_ft.monitor.identity import identify, is_alive
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings

SHORT = RunConfig(data=DataConfig(id="nothing"))
"""Fails as soon as its trainer looks at the data, which takes a second."""


@pytest.fixture
def busy(settings: Settings) -> JobManager:
    """A manager of a home whose only device is taken, by this process."""
    devices = take(settings.devices, [PROCESSOR], 1)
    assert devices is not None
    return JobManager(settings)


def release(settings: Settings) -> None:
    """Let go of the device that the fixture `busy` took: by closing every open file of its lock."""
    for link in Path("/proc/self/fd").iterdir():
        if link.exists() and link.resolve().parent == settings.devices.resolve():
            os.close(int(link.name))


def status(manager: JobManager, run: RunDir) -> str:
    return manager.state(run).status


def test_runs_wait_in_the_order_in_which_they_were_started_and_can_be_moved(busy: JobManager) -> None:
    runs = [busy.start(SHORT) for _ in range(3)]
    assert busy.waiting() == runs
    assert [status(busy, run) for run in runs] == ["queued"] * 3
    busy.move(runs[2].run_id, -1)
    assert busy.waiting() == [runs[0], runs[2], runs[1]]
    busy.move(runs[0].run_id, 1_000)
    assert busy.waiting() == [runs[2], runs[1], runs[0]]
    release(busy.settings)
    ended = [wait_for_end(busy, run, timeout=90) for run in (runs[2], runs[1], runs[0])]
    began = [state.started_at or 0 for state in ended]
    assert began == sorted(began), "somebody was overtaken"
    assert [state.status for state in ended] == ["failed"] * 3
    for earlier, later in pairwise(ended):
        assert (earlier.ended_at or 0) <= (later.started_at or 0), "two trained at once"
    assert busy.queue.order() == []
    with pytest.raises(RunBusy, match="Only a run that waits"):
        busy.move(runs[0].run_id, 1)


def test_a_queued_run_outlives_the_program_that_started_it(busy: JobManager) -> None:
    start = (
        "import sys; from pathlib import Path; from gemma_ft.settings import Settings;"
        "from gemma_ft.jobs.manager import JobManager; from gemma_ft.config import RunConfig, DataConfig;"
        "print(JobManager(Settings(home=Path(sys.argv[1]))).start(RunConfig(data=DataConfig(id='nothing'))).run_id)"
    )
    command = [sys.executable, "-c", start, str(busy.settings.home)]
    run_id = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    run = busy.open(run_id)
    assert status(busy, run) == "queued"
    release(busy.settings)
    assert wait_for_end(busy, run, timeout=60).status == "failed"


def test_a_queued_run_that_lost_its_supervisor_keeps_its_place_and_holds_up_nobody(busy: JobManager) -> None:
    first, second = busy.start(SHORT), busy.start(SHORT)
    supervisor = first.state().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(supervisor), what="its end")
    assert status(busy, first) == "queued"
    busy.reconcile()
    assert busy.waiting() == [first, second]
    assert is_alive(first.state().supervisor)
    halted = first.state().supervisor
    assert halted is not None
    os.kill(halted.pid, signal.SIGSTOP)
    release(busy.settings)
    assert wait_for_end(busy, second, timeout=60).status == "failed"
    assert status(busy, first) == "queued"
    busy.reconcile()
    assert wait_for_end(busy, first, timeout=60).attempt == 1
    assert identify(halted.pid) is None


def test_a_stop_takes_a_run_out_of_the_line_also_when_nobody_waits_for_it_any_more(busy: JobManager) -> None:
    run, lost = busy.start(SHORT), busy.start(SHORT)
    busy.stop(run.run_id, save=False)
    assert wait_for_end(busy, run, timeout=30).status == "stopped"
    supervisor = lost.state().supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(supervisor), what="its end")
    busy.stop(lost.run_id)
    assert wait_for_end(busy, lost, timeout=30).status == "stopped"
    assert busy.queue.order() == []
    release(busy.settings)
    busy.resume(run.run_id)
    state = wait_for_end(busy, run, timeout=60)
    assert (state.status, state.attempt) == ("failed", 2)


def test_a_request_that_is_made_twice_makes_one_run(busy: JobManager) -> None:
    run = busy.start(SHORT, request="one press")
    assert busy.start(SHORT, request="one press") == run
    assert busy.start(SHORT, request="another press") != run
    assert len(busy.runs()) == 2
    for each in busy.waiting():
        busy.stop(each.run_id)


def test_a_damaged_or_stale_place_in_line_harms_nobody(tmp_path: Path, settings: Settings) -> None:
    queue = Queue(tmp_path / "queue")
    for name in ("a", "b", "c"):
        queue.join(name)
    (queue.folder / "a").write_text("not a number")
    assert queue.order() == ["b", "c", "a"]
    queue.move("a", -2)
    assert queue.order() == ["a", "b", "c"]
    queue.join("b")
    queue.move("nobody", 1)
    queue.leave("nobody")
    assert queue.order() == ["a", "b", "c"]
    manager = JobManager(settings)
    manager.queue.join("20200101-000000-gone-lora-0000")
    manager.reconcile()
    assert manager.queue.order() == []


def test_a_device_is_free_when_nobody_who_took_it_lives(tmp_path: Path) -> None:
    names = ["gpu-0", "gpu-1", "gpu-2"]
    two = take(tmp_path, names, 2)
    assert two is not None
    assert two.gpus == (0, 1)
    assert take(tmp_path, names, 2) is None
    one = take(tmp_path, names, 1)
    assert one is not None
    assert one.gpus == (2,)
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=two.files)
    two.release()
    assert take(tmp_path, names, 1) is None, "a child holds on to what it inherited"
    holder.kill()
    holder.wait()
    again = take(tmp_path, names, 2)
    assert again is not None
    assert again.gpus == (0, 1)
    again.release()
    one.release()


def test_a_run_takes_as_many_gpus_as_it_trains_on() -> None:
    gpu = Gpu(name="L4", memory=1, free=1, capability=(8, 9))
    four = Machine(name="", gpus=(gpu,) * 4, cores=8, memory=1, memory_free=1, disk_free=1)
    none = replace(four, gpus=())
    asked = [RunConfig(compute=ComputeConfig(processes=number)) for number in (0, 1, 2)]
    assert [needed(config, four) for config in asked] == [4, 1, 2]
    assert [needed(config, none) for config in asked] == [1, 1, 1]
    assert names_of(none) == (PROCESSOR,)
    assert names_of(four) == ("gpu-0", "gpu-1", "gpu-2", "gpu-3")
