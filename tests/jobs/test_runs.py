"""Runs as real processes: failures that are told, stops that stop, crashes that are noticed. Nothing here gets
as far as training, unless it is marked."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from conftest import wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from gemma_ft.errors import RunBusy, RunNotFound
from gemma_ft.events import read_facts
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.monitor.identity import identify, is_alive
from gemma_ft.monitor.summary import summarise
from gemma_ft.rundir import RunDir, create_run
from gemma_ft.settings import Settings
from gemma_ft.ui.live import LiveRuns

LONG = recipes.try_it().model_copy(
    update={
        "training": TrainingConfig(max_steps=100_000, batch_size=4, max_length=64, eval_every=0, save_every=0),
    }
)


def start_until(manager: JobManager, config: RunConfig, phase: str) -> RunDir:
    """Start a run and wait until it has entered a phase."""
    run = manager.start(config)
    wait_until(lambda: manager.state(run).phase.startswith(phase), timeout=120, what=f"the phase {phase!r}")
    return run


FAILURES = [
    (RunConfig(model=ModelConfig(id="/no/such/folder")), "model", 1),
    (RunConfig(data=DataConfig(source="file", path="/no/such/file.jsonl")), "data", 2),
    (RunConfig(data=DataConfig(id="nothing")), "data", 2),
]


@pytest.mark.parametrize(("config", "kind", "exit_code"), FAILURES, ids=lambda value: str(value)[:24])
def test_a_failure_is_told_with_title_cause_and_remedy(
    settings: Settings, config: RunConfig, kind: str, exit_code: int
) -> None:
    manager = JobManager(settings)
    run = manager.start(config)
    state = wait_for_end(manager, run, timeout=30)
    assert (state.status, state.exit_code) == ("failed", exit_code)
    assert state.error is not None
    assert state.error.kind == kind
    assert all((state.error.title, state.error.what_happened, state.error.what_to_do))
    assert run.log.read_text()
    assert run.config() == config
    assert summarise(run, state)["error"]["kind"] == kind


def test_a_failure_is_on_record_within_three_seconds_of_the_childs_end(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_until(manager, LONG, "building")
    trainer = manager.state(run).trainer
    assert trainer is not None
    os.kill(trainer.pid, signal.SIGKILL)
    wait_until(lambda: identify(trainer.pid) is None, what="the trainer's end")
    ended = time.monotonic()
    assert wait_for_end(manager, run, timeout=10).status == "failed"
    assert time.monotonic() - ended < 3


def test_a_model_that_is_no_gemma_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    state = wait_for_end(
        manager := JobManager(settings), manager.start(RunConfig(model=ModelConfig(id=str(tmp_path)))), timeout=60
    )
    assert state.error is not None
    assert "'llama'" in state.error.what_happened


def test_a_second_run_waits_its_turn_and_a_stop_takes_it_out_of_the_line(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_until(manager, LONG, "building")
    second = manager.start(LONG)
    assert manager.state(second).status == "queued"
    assert manager.waiting() == [second]
    manager.stop(second.run_id)
    assert wait_for_end(manager, second, timeout=30).status == "stopped"
    assert manager.waiting() == []
    manager.stop(run.run_id, save=False)
    wait_for_end(manager, run)
    with pytest.raises(RunBusy, match="already ended"):
        manager.stop(run.run_id)
    with pytest.raises(RunNotFound):
        manager.stop("no-such-run")


def test_a_cancel_while_the_demo_model_is_built_takes_seconds_and_leaves_nothing_half_made(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_until(manager, LONG, "building")
    asked = time.monotonic()
    manager.stop(run.run_id, save=False)
    state = wait_for_end(manager, run, timeout=30)
    assert time.monotonic() - asked < 10
    assert state.status == "stopped"
    assert not is_alive(state.trainer)
    assert [path for path in settings.models.iterdir() if path.is_dir() and not path.name.startswith(".")] == []
    assert run.wished() is None


def test_a_trainer_that_is_killed_is_a_failure_that_says_so(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_until(manager, LONG, "building")
    trainer = manager.state(run).trainer
    assert trainer is not None
    os.kill(trainer.pid, signal.SIGKILL)
    state = wait_for_end(manager, run, timeout=30)
    assert (state.status, state.exit_code) == ("failed", -signal.SIGKILL)
    assert state.error is not None
    assert state.error.kind == "killed"
    assert "memory" in state.error.what_happened


def test_a_run_that_loses_its_supervisor_leaves_and_is_said_to_be_interrupted(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_until(manager, LONG, "building")
    before = manager.state(run)
    assert before.supervisor is not None
    os.kill(before.supervisor.pid, signal.SIGKILL)
    state = wait_for_end(manager, run, timeout=30)
    assert state.status == "interrupted"
    assert not is_alive(before.trainer)
    assert JobManager(settings).active() is None


def test_a_run_whose_processes_all_died_is_told_truly_by_the_next_who_looks(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_until(manager, LONG, "building")
    before = manager.state(run)
    assert before.supervisor is not None
    assert before.trainer is not None
    for process in (before.supervisor, before.trainer):
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda process=process: identify(process.pid) is None, what="its end")
    assert run.state().status == "preparing"
    assert JobManager(settings).state(run).status == "interrupted"
    assert run.state().status == "interrupted"


def test_the_supervisor_samples_the_machine_and_the_run_itself(settings: Settings) -> None:
    manager = JobManager(settings)
    run = start_until(manager, LONG, "building")
    wait_until(lambda: len(read_facts(run.system)[0]) >= 3, what="three samples")
    sample = read_facts(run.system)[0][-1]
    assert 0 < sample["memory_used"] < sample["memory_total"]
    assert 0 < sample["disk_used"] < sample["disk_total"]
    assert sample["own"]["memory_used"] > 10_000_000
    assert isinstance(sample["gpus"], list)


@pytest.mark.train
def test_stop_and_save_then_resume_counts_every_step_once_and_finishes(demo_settings: Settings) -> None:
    manager = JobManager(demo_settings)
    config = recipes.try_it().model_copy(
        update={"training": recipes.try_it().training.model_copy(update={"max_steps": 150, "save_every": 0})}
    )
    run = manager.start(config)
    wait_until(lambda: len(RunFacts(run.events).refresh().steps) > 5, timeout=120, what="a few steps")
    manager.stop(run.run_id)
    state = wait_for_end(manager, run)
    assert (state.status, state.exit_code) == ("stopped", 3)
    stopped_at = RunFacts(run.events).refresh().steps[-1]["step"]
    assert [path.name for path in run.checkpoints.iterdir()] == [f"checkpoint-{stopped_at}"]
    assert not run.model.exists()

    manager.resume(run.run_id)
    state = wait_for_end(manager, run)
    assert (state.status, state.attempt) == ("finished", 2)
    steps = [fact["step"] for fact in RunFacts(run.events).refresh().steps]
    assert steps == list(range(1, 151))
    assert run.model.is_dir()
    with pytest.raises(RunBusy, match="nothing to resume"):
        manager.resume(run.run_id)
    assert list(run.path.glob(".writing")) == []


@pytest.mark.train
def test_a_stop_in_the_middle_of_an_evaluation_is_obeyed_there_and_saves(demo_settings: Settings) -> None:
    """An evaluation after every step, of as many rows one by one: nearly all the time goes into it."""
    base = recipes.try_it()
    training = base.training.model_copy(update={"max_steps": 500, "eval_every": 1, "save_every": 0, "batch_size": 1})
    config = base.model_copy(
        update={
            "training": training,
            "data": base.data.model_copy(update={"validation_fraction": 0.5}),
            "evaluation": base.evaluation.model_copy(update={"prompts": ()}),
        }
    )
    manager = JobManager(demo_settings)
    run = manager.start(config)
    wait_until(lambda: RunFacts(run.events).refresh().evals[1:], timeout=120, what="two evaluations")
    manager.stop(run.run_id)
    assert wait_for_end(manager, run, timeout=30).status == "stopped"
    facts = RunFacts(run.events).refresh()
    assert len(facts.evals) == len(facts.steps) - 1, "the last evaluation was not ended early"
    assert [path.name for path in run.checkpoints.iterdir()] == [f"checkpoint-{facts.steps[-1]['step']}"]


@pytest.mark.train
def test_a_stop_after_the_last_step_does_not_lose_the_model(demo_settings: Settings) -> None:
    """The last evaluation is long; whoever stops then has a whole training behind him."""
    base = recipes.try_it()
    training = base.training.model_copy(update={"max_steps": 2, "eval_every": 0, "save_every": 0, "batch_size": 1})
    evaluation = base.evaluation.model_copy(update={"prompts": tuple(f"question {n}" for n in range(8))})
    manager = JobManager(demo_settings)
    run = manager.start(base.model_copy(update={"training": training, "evaluation": evaluation}))
    wait_until(lambda: RunFacts(run.events).refresh().steps[1:], timeout=120, what="the last step")
    manager.stop(run.run_id)
    assert wait_for_end(manager, run).status == "finished"
    assert (run.model / "adapter_model.safetensors").exists()


@pytest.mark.train
def test_a_cancel_while_it_trains_saves_nothing_and_ends_within_ten_seconds(demo_settings: Settings) -> None:
    manager = JobManager(demo_settings)
    run = start_until(manager, LONG, "training")
    asked = time.monotonic()
    manager.stop(run.run_id, save=False)
    state = wait_for_end(manager, run, timeout=30)
    assert time.monotonic() - asked < 10
    assert state.status == "stopped"
    assert not run.model.exists()
    assert not any(run.checkpoints.glob("checkpoint-*"))


def test_a_stop_that_is_asked_before_the_supervisor_has_begun_is_not_forgotten(settings: Settings) -> None:
    manager = JobManager(settings)
    run = create_run(settings.runs, LONG)
    manager.stop(run.run_id)
    assert wait_for_end(manager, run, timeout=30).status == "stopped"
    assert RunFacts(run.events).refresh().steps == []


def test_a_damaged_state_or_config_stops_nobody_else(settings: Settings) -> None:
    manager = JobManager(settings)
    state_gone, config_gone = create_run(settings.runs, LONG), create_run(settings.runs, LONG)
    state_gone.state_file.write_text("")
    config_gone.config_file.write_text("{")
    config_gone.write_state(config_gone.state().model_copy(update={"status": "finished"}))
    summaries = {run.run_id: summarise(run, manager.state(run)) for run in manager.runs()}
    assert summaries[state_gone.run_id]["status"] == "interrupted"
    assert "damaged" in summaries[state_gone.run_id]["error"]["title"]
    assert summaries[config_gone.run_id]["model"] is None
    live = LiveRuns(manager)
    assert {live.poll({"run": run_id})["run"] for run_id in summaries} == set(summaries)
    failed = manager.start(FAILURES[0][0])
    assert wait_for_end(manager, failed, timeout=30).status == "failed"


def test_a_supervisor_that_fails_takes_the_trainer_along(settings: Settings) -> None:
    """Its samples cannot be written (the file is a folder), which it cannot know how to live with."""
    manager = JobManager(settings)
    run = create_run(settings.runs, LONG)
    run.system.mkdir()
    manager._supervise(run, None)
    state = wait_for_end(manager, run, timeout=30)
    assert state.status == "failed"
    assert state.error is not None
    assert "supervisor" in state.error.title
    trainers = [p for p in psutil.process_iter(["cmdline"]) if str(run.path) in (p.info["cmdline"] or [])]
    wait_until(lambda: not any(identify(process.pid) for process in trainers), what="the trainer's end")
