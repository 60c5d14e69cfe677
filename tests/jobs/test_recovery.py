"""What is true after processes are lost or hang, clocks are set and pages are doubled; and what goes on by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import DataConfig, RunConfig, TrainingConfig
from gemma_ft.errors import ConfigError, RunBusy
from gemma_ft.events import read_facts
from gemma_ft.jobs.heartbeat import silent_seconds
from gemma_ft.jobs.manager import MOST_RESCUES, JobManager
from gemma_ft.jobs.ownership import Ownership
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.monitor.identity import identify, is_alive, is_halted
from gemma_ft.monitor.summary import last_step
from gemma_ft.rundir import ProcessId, RunDir, create_run
from gemma_ft.settings import Settings
from gemma_ft.ui.live import LiveRuns

LONG = recipes.try_it().model_copy(
    update={"training": TrainingConfig(max_steps=100_000, batch_size=4, max_length=64, eval_every=0, save_every=0)}
)


def start_building(manager: JobManager) -> RunDir:
    """Start a run and wait until it builds the demo model, which takes a while."""
    run = manager.start(LONG)
    wait_until(lambda: manager.state(run).phase.startswith("building"), timeout=120, what="the building")
    return run


def supervisor_of(run: RunDir) -> ProcessId:
    supervisor = run.state().supervisor
    assert supervisor is not None
    return supervisor


def test_a_supervisor_that_hangs_is_given_up_and_takes_nothing_along(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_building(manager)
    supervisor, trainer = supervisor_of(run), run.state().trainer
    os.kill(supervisor.pid, signal.SIGSTOP)
    wait_until(lambda: is_halted(supervisor), what="the halt")
    assert manager.state(run).status == "preparing", "it may be for a moment only"
    state = wait_for_end(manager, run, timeout=60)
    assert state.status == "interrupted"
    assert not is_alive(supervisor)
    assert not is_alive(trainer)


def test_a_trainer_that_is_halted_without_its_supervisor_is_ended(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_building(manager)
    trainer = run.state().trainer
    assert trainer is not None
    os.kill(trainer.pid, signal.SIGSTOP)
    os.kill(supervisor_of(run).pid, signal.SIGKILL)
    assert wait_for_end(manager, run, timeout=30).status == "interrupted"
    wait_until(lambda: identify(trainer.pid) is None, what="its end")


def test_a_halted_trainer_is_said_to_be_so_and_cancelled_within_ten_seconds(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_building(manager)
    trainer = run.state().trainer
    assert trainer is not None
    os.kill(trainer.pid, signal.SIGSTOP)
    says = lambda: LiveRuns(manager).poll({"run": run.run_id})["view"]["detail"]  # noqa: E731
    wait_until(lambda: "does not move" in says(), timeout=5, what="the page to say so")
    asked = time.monotonic()
    manager.stop(run.run_id, save=False)
    assert wait_for_end(manager, run, timeout=30).status == "stopped"
    assert time.monotonic() - asked < 12
    assert not is_alive(trainer)


def test_a_process_of_an_earlier_life_of_the_machine_is_dead(settings: Settings) -> None:
    """As after a restart: the numbers may belong to others by now."""
    run = create_run(settings.runs, LONG)
    me = identify(os.getpid())
    assert me is not None
    earlier = me.model_copy(update={"boot": "before"})
    run.write_state(run.state().model_copy(update={"status": "training", "supervisor": earlier, "trainer": earlier}))
    assert silent_seconds(run, earlier) == float("inf")
    assert JobManager(settings).state(run).status == "interrupted"
    assert identify(os.getpid()) == me


def test_a_number_that_belongs_to_another_process_now_is_left_alone(settings: Settings) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    run = create_run(settings.runs, LONG)
    found = identify(other.pid)
    assert found is not None
    reused = found.model_copy(update={"created": found.created - 60})
    run.write_state(run.state().model_copy(update={"status": "training", "supervisor": reused, "trainer": reused}))
    run.wish("cancel")
    assert JobManager(settings).state(run).status in ("interrupted", "stopped")
    assert other.poll() is None
    other.kill()
    other.wait()


def test_interrupted_runs_are_rescued_but_not_for_ever(settings: Settings) -> None:
    manager = JobManager(settings)
    run = create_run(settings.runs, RunConfig(data=DataConfig(id="nothing")))
    lost = run.state().model_copy(update={"status": "interrupted"})
    stopped = create_run(settings.runs, LONG)
    stopped.write_state(stopped.state().model_copy(update={"status": "stopped"}))
    run.write_state(lost)
    assert manager.rescue() == [run]
    state = wait_for_end(manager, run, timeout=60)
    assert (state.status, state.attempt, state.rescues) == ("failed", 2, 1)
    run.write_state(lost.model_copy(update={"rescues": MOST_RESCUES}))
    assert manager.rescue() == []
    (run.checkpoints / "checkpoint-5").mkdir(parents=True)
    assert manager.rescue() == [run], "it gets on"
    assert wait_for_end(manager, run, timeout=60).rescues == 1
    manager.resume(run.run_id)
    assert wait_for_end(manager, run, timeout=60).rescues == 0, "whoever asks begins anew"


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(["supervisor"], marks=pytest.mark.slow, id="supervisor"),
        pytest.param(["trainer"], marks=pytest.mark.slow, id="trainer"),
        pytest.param(["supervisor", "trainer"], id="both"),
    ],
)
def test_a_machine_that_goes_down_in_order_interrupts_a_run_which_saves_and_is_rescued(
    demo_settings: Settings, told: list[str]
) -> None:
    manager = JobManager(demo_settings)
    run = manager.start(LONG)
    wait_until(lambda: RunFacts(run.events).refresh().steps, timeout=240, what="the first step")
    state = manager.state(run)
    for name in told:
        os.kill(getattr(state, name).pid, signal.SIGTERM)
    assert wait_for_end(manager, run, timeout=60).status == "interrupted"
    saved = RunFacts(run.events).refresh().checkpoint
    assert saved, "it has to save before it leaves"
    assert manager.rescue() == [run]
    wait_until(lambda: RunFacts(run.events).refresh().steps[-1]["step"] > saved, timeout=240, what="more steps")
    manager.stop(run.run_id, save=False)
    assert wait_for_end(manager, run, timeout=60).status == "stopped"


def test_one_page_controls_a_home_and_the_next_takes_over(tmp_path: Path) -> None:
    first, second = Ownership(tmp_path / "app.lock", "page one"), Ownership(tmp_path / "app.lock", "page two")
    assert first.take()
    assert first.take()
    assert not second.take()
    with pytest.raises(RunBusy, match="page one, process"):
        second.require()
    first.release()
    second.require()
    assert not first.take()


@pytest.mark.train
def test_save_now_and_sample_now_are_done_at_once_and_the_run_goes_on(demo_settings: Settings) -> None:
    base = recipes.try_it()
    config = base.changed({"training.max_steps": 3_000, "training.save_every": 0, "training.eval_every": 0})
    manager = JobManager(demo_settings)
    run = manager.start(config)
    with pytest.raises(RunBusy):
        manager.request(create_run(demo_settings.runs, config).run_id, "save_now")
    wait_until(lambda: last_step(run.events).get("step", 0) > 3, timeout=120, what="a few steps")
    before = last_step(run.events)["step"]
    manager.request(run.run_id, "save_now")
    manager.request(run.run_id, "sample_now")
    wait_until(lambda: any(run.checkpoints.glob("checkpoint-*")), what="the checkpoint")
    sampled = lambda: [f["step"] for f in read_facts(run.events)[0] if f["event"] == "sample" and f["step"] > before]  # noqa: E731
    wait_until(sampled, what="the answers")
    assert not run.requested("save_now")
    assert not run.requested("sample_now")
    (checkpoint,) = run.checkpoints.iterdir()
    saved_at = int(checkpoint.name.rpartition("-")[2])
    assert saved_at > before
    wait_until(lambda: last_step(run.events)["step"] > saved_at + 2, what="going on")
    manager.stop(run.run_id, save=False)
    assert wait_for_end(manager, run).status == "stopped"


@pytest.mark.train
def test_a_finished_run_is_trained_further_as_a_run_of_its_own(demo_settings: Settings) -> None:
    base = recipes.try_it()
    config = base.changed({"training.max_steps": None, "training.epochs": 1.0, "training.save_every": 3})
    manager = JobManager(demo_settings)
    parent = manager.start(config)
    with pytest.raises(RunBusy, match="Only a finished run"):
        manager.continue_run(parent.run_id, 1)
    assert wait_for_end(manager, parent).status == "finished"
    files = {path: path.read_bytes() for path in parent.checkpoints.rglob("*") if path.is_file()}
    steps = last_step(parent.events)["step"]
    for nonsense in (-1, 0, float("nan"), float("inf"), None):
        with pytest.raises(ConfigError, match="above 0"):
            manager.continue_run(parent.run_id, nonsense)  # type: ignore[arg-type]
    assert manager.runs() == [parent]
    child = manager.continue_run(parent.run_id, 1)
    assert wait_for_end(manager, child).status == "finished", child.log.read_text()
    assert child.origin().parent == parent.run_id
    assert child.origin().parent_step == steps
    assert child.config().training.epochs == pytest.approx(2.0)
    assert [fact["step"] for fact in RunFacts(child.events).refresh().steps] == list(range(steps + 1, 2 * steps + 1))
    assert {path: path.read_bytes() for path in files} == files, "the parent was changed"
    assert (child.model / "adapter_model.safetensors").read_bytes() != (
        parent.model / "adapter_model.safetensors"
    ).read_bytes()
    for checkpoint in parent.checkpoints.iterdir():
        checkpoint.rename(parent.path / checkpoint.name)
    with pytest.raises(ConfigError, match="no checkpoint of its last step"):
        manager.continue_run(parent.run_id, 1)


def test_a_page_in_control_stays_so_whichever_of_its_threads_asks(tmp_path: Path) -> None:
    """The page's own watch and the people's requests ask at the same time."""
    for number in range(20):
        page = Ownership(tmp_path / f"{number}.lock", "the page")
        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(lambda _, page=page: page.take(), range(8)))
        page.release()
