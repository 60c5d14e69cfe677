"""Two processes that train together over gloo: the same steps as one, one voice, and nothing left when one dies."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import psutil
import pytest

from conftest import wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import ComputeConfig, EvaluationConfig, RunConfig
from gemma_ft.hardware import Gpu, Machine
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings
from gemma_ft.sharing import processes_for


def config_with(compute: ComputeConfig, **training: Any) -> RunConfig:
    base = recipes.try_it()
    given = {"max_steps": 4, "batch_size": 4, "eval_every": 2, "save_every": 0, "learning_rate": 1e-3, **training}
    return base.model_copy(
        update={
            "compute": compute,
            "training": base.training.model_copy(update=given),
            "evaluation": EvaluationConfig(prompts=("What is the capital of France?",), max_new_tokens=4),
        }
    )


def finish(settings: Settings, config: RunConfig) -> RunDir:
    manager = JobManager(settings)
    run = manager.start(config)
    state = wait_for_end(manager, run)
    assert state.status == "finished", f"{state.error}\n{run.log.read_text()}"
    return run


def machine_with(gpus: int) -> Machine:
    gpu = Gpu(name="L4", memory=24 * 10**9, free=24 * 10**9, capability=(8, 9))
    return Machine(name="", gpus=(gpu,) * gpus, cores=8, memory=10**11, memory_free=10**11, disk_free=10**12)


def test_as_many_gpus_train_as_divide_the_batch() -> None:
    def found(gpus: int, asked: int = 0, **training: int) -> int:
        return processes_for(config_with(ComputeConfig(processes=asked), **training), machine_with(gpus))

    assert [found(gpus, batch_size=8) for gpus in (0, 1, 2, 3, 4, 8)] == [1, 1, 2, 2, 4, 8]
    assert found(2, batch_size=1) == 1
    assert found(2, batch_size=1, accumulation=2) == 2
    assert found(0, asked=2) == 2
    assert found(4, asked=2) == 2
    assert found(1, asked=2) == 1


@pytest.mark.train
def test_two_processes_make_the_steps_of_one(demo_settings: Settings) -> None:
    alone, together = (
        RunFacts(finish(demo_settings, config_with(ComputeConfig(processes=n))).events).refresh() for n in (1, 2)
    )
    assert [fact["step"] for fact in together.steps] == [1, 2, 3, 4]
    for one, two in zip(alone.steps, together.steps, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-4)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)
    assert len(together.evals) == len(alone.evals)
    assert len(together.samples) == len(alone.samples)


def two_that_train(settings: Settings) -> tuple[JobManager, RunDir, list[psutil.Process]]:
    """Start a long run of two processes, wait for some steps, and return all its processes."""
    manager = JobManager(settings)
    run = manager.start(config_with(ComputeConfig(processes=2), max_steps=10_000, eval_every=0))
    wait_until(lambda: RunFacts(run.events).refresh().steps[2:], timeout=120, what="a few steps")
    launcher = manager.state(run).trainer
    assert launcher is not None
    process = psutil.Process(launcher.pid)
    ranks = [child for child in process.children(recursive=True) if str(run.path) in child.cmdline()]
    assert len(ranks) == 2
    return manager, run, [process, *ranks]


@pytest.mark.train
@pytest.mark.slow
def test_a_stop_saves_once_and_the_run_goes_on_where_it_was(demo_settings: Settings) -> None:
    manager, run, processes = two_that_train(demo_settings)
    manager.stop(run.run_id)
    state = wait_for_end(manager, run, timeout=60)
    assert state.status == "stopped", run.log.read_text()
    assert not any(process.is_running() for process in processes)
    last = RunFacts(run.events).refresh().steps[-1]["step"]
    assert [path.name for path in run.checkpoints.iterdir()] == [f"checkpoint-{last}"]
    manager.resume(run.run_id)
    wait_until(lambda: RunFacts(run.events).refresh().steps[-1]["step"] > last, timeout=120, what="the next step")
    manager.stop(run.run_id, save=False)
    assert wait_for_end(manager, run, timeout=30).status == "stopped"
    steps = [fact["step"] for fact in RunFacts(run.events).refresh().steps]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.train
@pytest.mark.slow
def test_a_process_that_is_killed_fails_the_run_and_leaves_nothing(demo_settings: Settings) -> None:
    manager, run, processes = two_that_train(demo_settings)
    os.kill(processes[2].pid, signal.SIGKILL)
    killed = time.monotonic()
    state = wait_for_end(manager, run, timeout=40)
    assert time.monotonic() - killed < 20
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.kind == "killed", run.log.read_text()
    assert not any(process.is_running() for process in processes)


@pytest.mark.train
@pytest.mark.slow
def test_processes_whose_launcher_and_supervisor_are_killed_leave(demo_settings: Settings) -> None:
    manager, run, processes = two_that_train(demo_settings)
    supervisor = manager.state(run).supervisor
    assert supervisor is not None
    for pid in (supervisor.pid, processes[0].pid):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(process.is_running() for process in processes), timeout=20, what="their end")
    assert manager.state(run).status == "interrupted"


def test_what_cannot_be_shared_is_refused_in_words(demo_settings: Settings) -> None:
    manager = JobManager(demo_settings)
    config = config_with(ComputeConfig(processes=2)).changed({"training.batch_size": 3, "training.accumulation": 1})
    run = manager.start(config)
    state = wait_for_end(manager, run, timeout=120)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.kind == "config"
    assert "cannot be divided" in state.last_line, "what the launcher prints around it hides the reason"
