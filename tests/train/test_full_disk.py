"""A disk that fills up while a model is trained: the run waits, says so where it can, and ends with the very weights of
one that had room all the time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from conftest import end_all_runs, wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import RunConfig
from gemma_ft.events import read_facts
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.disk import folder_size
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import RunDir, RunState
from gemma_ft.settings import Settings
from small_disk import SmallDisk, mounted

pytestmark = pytest.mark.train

STEPS, SAVE_EVERY = 60, 40
WAITING = "waiting for disk space"


def config(**training: Any) -> RunConfig:
    given = {"max_steps": STEPS, "save_every": SAVE_EVERY, "eval_every": 0, "batch_size": 4, **training}
    base = recipes.try_it()
    return base.model_copy(
        update={
            "training": base.training.model_copy(update=given),
            "evaluation": base.evaluation.model_copy(update={"prompts": ()}),
        }
    )


@pytest.fixture
def disk_settings(small_disk: SmallDisk, demo_models: Path) -> Iterator[Settings]:
    """A home on the small disk, with the demo model elsewhere."""
    settings = Settings(home=small_disk.path / "home")
    settings.home.mkdir()
    settings.models.symlink_to(demo_models)
    yield settings
    end_all_runs(settings)


@pytest.fixture(scope="module")
def roomy_run(tmp_path_factory: pytest.TempPathFactory, demo_models: Path) -> RunDir:
    """A run that had room."""
    settings = Settings(home=tmp_path_factory.mktemp("roomy"))
    settings.models.symlink_to(demo_models)
    manager = JobManager(settings)
    run = manager.start(config())
    assert wait_for_end(manager, run).status == "finished"
    return run


@pytest.fixture(scope="module")
def undisturbed(roomy_run: RunDir) -> dict[str, bytes]:
    """The result of a run that had room, by file name."""
    return weights(roomy_run.model)


@pytest.fixture(scope="module")
def checkpoint_size(roomy_run: RunDir) -> int:
    """What one checkpoint takes."""
    return folder_size(roomy_run.checkpoints / f"checkpoint-{STEPS}")


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def start_and_fill(disk: SmallDisk, manager: JobManager, wanted: RunConfig, *, leave: int) -> tuple[RunDir, int]:
    """Start a run and fill the disk at its first steps; return the run and its trainer."""
    run = manager.start(wanted)
    wait_until(lambda: RunFacts(run.events).refresh().steps, timeout=240, what="the first step")
    disk.fill(leave=leave)
    trainer = manager.state(run).trainer
    assert trainer is not None
    return run, trainer.pid


def rests(pid: int) -> bool:
    """Tell whether a process does next to nothing for a second: it waits."""
    process = psutil.Process(pid)
    process.cpu_percent()
    return process.cpu_percent(1.0) < 15


def phases(run: RunDir) -> list[str]:
    return [fact["phase"] for fact in read_facts(run.events)[0] if fact["event"] == "phase"]


def check_like_undisturbed(manager: JobManager, run: RunDir, state: RunState, expected: dict[str, bytes]) -> None:
    assert state.status == "finished", f"{state.error}\n{run.log.read_text()}"
    facts = RunFacts(run.events).refresh()
    assert [fact["step"] for fact in facts.steps] == list(range(1, STEPS + 1))
    assert weights(run.model) == expected
    assert len(expected) == 1
    assert {path.name for path in run.checkpoints.iterdir()} == {f"checkpoint-{SAVE_EVERY}", f"checkpoint-{STEPS}"}
    left = [path for path in run.path.iterdir() if path.name.startswith(".")]
    assert left == []


@pytest.mark.parametrize(
    ("checkpoints", "more", "said"),
    [
        pytest.param(0.0, 0, "", id="no room for anything", marks=pytest.mark.slow),
        pytest.param(0.1, 0, "needs", id="not for a checkpoint"),
        pytest.param(
            1.0, -100_000, "are not enough", id="not for the last large file of a checkpoint", marks=pytest.mark.slow
        ),
        pytest.param(1.0, 15_000, "", id="not for the small files of a checkpoint"),
        pytest.param(1.7, 0, "needs", id="not for the second checkpoint", marks=pytest.mark.slow),
        pytest.param(2.0, 150_000, "", id="not for the model"),
    ],
)
def test_a_run_whose_disk_fills_up_waits_and_ends_with_the_same_weights(
    small_disk: SmallDisk,
    disk_settings: Settings,
    undisturbed: dict[str, bytes],
    checkpoint_size: int,
    checkpoints: float,
    more: int,
    said: str,
) -> None:
    """With no room at all not even a fact can be written; with some, saving fails at the first or at a later file."""
    manager = JobManager(disk_settings)
    leave = int(checkpoints * checkpoint_size) + more
    run, trainer = start_and_fill(small_disk, manager, config(), leave=leave)
    if leave:
        wait_until(lambda: WAITING in manager.state(run).phase, timeout=120, what="a word that it waits")
        assert not list(run.path.glob(".writing/*/*")), "what was written in vain is still there"
        assert any("disk is full" in warning for warning in RunFacts(run.events).refresh().warnings)
    wait_until(lambda: rests(trainer), timeout=120, what="the trainer to wait")
    assert not run.model.exists()
    small_disk.empty()
    state = wait_for_end(manager, run)
    check_like_undisturbed(manager, run, state, undisturbed)
    warned = [fact for fact in read_facts(run.events)[0] if fact.get("kind") == "disk_full"]
    assert len(warned) == 1
    assert phases(run)[-1] == "saving the model"
    assert any(said in phase for phase in phases(run) if WAITING in phase)


def test_a_model_that_finds_no_room_is_saved_once_there_is_some(
    small_disk: SmallDisk, disk_settings: Settings, undisturbed: dict[str, bytes]
) -> None:
    manager = JobManager(disk_settings)
    run, _ = start_and_fill(small_disk, manager, config(save_every=0), leave=300_000)
    wait_until(lambda: WAITING in manager.state(run).phase, timeout=120, what="a word that it waits")
    assert phases(run)[-2] == "saving the model"
    small_disk.empty()
    assert wait_for_end(manager, run).status == "finished"
    assert weights(run.model) == undisturbed


def test_whoever_cancels_a_run_that_waits_for_room_is_obeyed(small_disk: SmallDisk, disk_settings: Settings) -> None:
    manager = JobManager(disk_settings)
    run, trainer = start_and_fill(small_disk, manager, config(), leave=300_000)
    wait_until(lambda: WAITING in manager.state(run).phase, timeout=120, what="a word that it waits")
    manager.stop(run.run_id, save=False)
    state = wait_for_end(manager, run, timeout=30)
    assert state.status == "stopped"
    assert state.stop is not None
    assert state.stop.rung == "asked", "it did not leave by itself"
    assert not psutil.pid_exists(trainer)
    assert not run.checkpoints.exists()


def test_a_stop_waits_for_room_until_its_time_is_up(small_disk: SmallDisk, disk_settings: Settings) -> None:
    """SIGTERM is what the stop ladder sends when its patience ends."""
    manager = JobManager(disk_settings)
    run, trainer = start_and_fill(small_disk, manager, config(save_every=0), leave=300_000)
    manager.stop(run.run_id)
    wait_until(lambda: WAITING in manager.state(run).phase, timeout=120, what="a word that it waits")
    assert rests(trainer)
    assert manager.state(run).status == "stopping"
    os.kill(trainer, signal.SIGTERM)
    assert wait_for_end(manager, run, timeout=30).status == "stopped"
    small_disk.empty()
    manager.resume(run.run_id)
    assert wait_for_end(manager, run).status == "finished"


def test_a_disk_that_is_full_to_the_end_keeps_the_last_word_until_there_is_room(
    small_disk: SmallDisk, disk_settings: Settings
) -> None:
    """The run fails for another reason, and neither its result nor its state can be written."""
    manager = JobManager(disk_settings)
    run = manager.start(config(max_steps=100_000, save_every=0))
    wait_until(lambda: RunFacts(run.events).refresh().steps, timeout=240, what="the first step")
    small_disk.fill()
    trainer, supervisor = (getattr(manager.state(run), name).pid for name in ("trainer", "supervisor"))
    manager.stop(run.run_id, save=False)
    wait_until(lambda: not psutil.pid_exists(trainer), timeout=30, what="the trainer's end")
    wait_until(lambda: not psutil.pid_exists(supervisor), timeout=30, what="the supervisor's end")
    small_disk.empty()
    assert manager.state(run).status == "stopped"


def test_a_run_that_the_disk_cannot_hold_fails_before_the_model_is_loaded(
    tmp_path: Path, demo_models: Path, small_disk: SmallDisk
) -> None:
    """A local folder has a shape that only the trainer knows."""
    settings = Settings(home=small_disk.path / "home")
    settings.home.mkdir()
    base = next(path for path in demo_models.iterdir() if (path / "model.safetensors").exists())
    wanted = config().changed({"model.id": str(base), "method.adapter": "none"})
    small_disk.fill(leave=3_000_000)
    manager = JobManager(settings)
    run = manager.start(wanted)
    state = wait_for_end(manager, run)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.kind == "disk"
    assert "writes at least" in state.error.what_happened
    assert "loading the model" not in phases(run)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread ends.
def test_tensorboard_goes_on_in_a_new_file(small_disk: SmallDisk, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from gemma_ft.train.board import Board

    folder = small_disk.path / "tensorboard"
    writer = Board(folder, pause_seconds=0.0)
    state, control = TrainerState(), TrainerControl()
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[])
    writer.on_train_begin(arguments, state, control)

    def log(first: int, beyond: int) -> None:
        for step in range(first, beyond):
            state.global_step = step
            writer.on_log(arguments, state, control, logs={"loss": float(step)})

    log(0, 5)
    small_disk.fill()
    log(5, 400)
    small_disk.empty()
    log(400, 405)
    writer.on_train_end(arguments, state, control)
    assert len(list(folder.iterdir())) == 2
    found = EventAccumulator(str(folder))
    found.Reload()
    seen = [event.step for event in found.Scalars("train/loss")]
    assert seen[:5] == list(range(5))
    assert seen[-5:] == list(range(400, 405))


@pytest.fixture(scope="module")
def tiny_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with mounted(tmp_path_factory.mktemp("tiny") / "disk", 1_000_000) as disk:
        yield disk


def write_torch(folder: Path) -> None:
    import torch

    torch.save(torch.zeros(1_000_000), folder / "optimizer.pt")


def write_torch_small(folder: Path) -> None:
    import torch

    for number in range(10_000):
        torch.save(torch.zeros(10), folder / f"{number}.pt")


def write_safetensors(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1_000_000)}, folder / "model.safetensors")


def write_tokenizer(folder: Path) -> None:
    from gemma_ft.train.demo_model import build_demo_tokenizer

    for number in range(100):
        (folder / str(number)).mkdir()
        build_demo_tokenizer(folder / str(number))


def write_text(folder: Path) -> None:
    (folder / "trainer_state.json").write_text("x" * 2_000_000)


@pytest.mark.parametrize(
    "write", [write_torch, write_torch_small, write_safetensors, write_tokenizer, write_text], ids=lambda f: f.__name__
)
def test_each_library_that_writes_is_understood_when_the_disk_is_full(tiny_disk: SmallDisk, write: Any) -> None:
    import shutil

    from gemma_ft.failures import explain
    from gemma_ft.full_disk import is_full_disk

    folder = tiny_disk.path / write.__name__
    folder.mkdir()
    with pytest.raises(Exception, match=r".") as failed:
        write(folder)
    assert is_full_disk(failed.value, folder), repr(failed.value)
    if not isinstance(failed.value, RuntimeError):
        assert explain(failed.value).kind == "disk"
    shutil.rmtree(folder)
    if isinstance(failed.value, RuntimeError):
        assert not is_full_disk(failed.value, Path("/"))
