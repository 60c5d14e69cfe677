"""Ends without a word from the trainer, and starts that fail: real processes, real signals, a real kernel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import wait_for_end, wait_until
from control_group import limited, memory_group_or_skip
from gemma_ft import recipes
from gemma_ft.config import RunConfig
from gemma_ft.events import FactWriter, read_facts
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.outcome import conclude
from gemma_ft.jobs.spawn import PROJECT_ROOT, own_environment
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import KILLED_FOR_MEMORY, RunDir, create_run
from gemma_ft.settings import Settings
from gemma_ft.train.ranks import PeerLost

START = """
from gemma_ft.jobs.manager import JobManager
from gemma_ft.settings import Settings

JobManager(Settings.from_env()).reconcile()
"""
ROWS, LIMIT = 24, 1_700_000_000
"""A step of 24 rows takes about 3.4 GB, of 12 about 2.0 GB, of 6 about 1.3 GB; 0.6 GB of it is PyTorch."""
NEEDS = "import no_such_package\n"


def start_elsewhere(settings: Settings, root: Path = PROJECT_ROOT, group: Path | None = None) -> None:
    """Let a process of its own, perhaps with another copy of the program, start the runs that wait."""
    environment = own_environment() | {"GEMMA_FT_HOME": str(settings.home), "PYTHONPATH": str(root)}
    subprocess.run(
        [sys.executable, "-c", START],
        env=environment | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        cwd=root,
        preexec_fn=limited(group) if group else None,
        check=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("number", "kind", "said", "advice"),
    [
        (signal.SIGKILL, "killed", "no record of that", "smaller batch"),
        (signal.SIGBUS, "crashed", "SIGBUS", "/dev/shm"),
        (signal.SIGSEGV, "crashed", "SIGSEGV", "Resume"),
        (signal.SIGABRT, "crashed", "SIGABRT", "end of the log"),
    ],
)
def test_a_trainer_that_a_signal_ends_is_told_by_the_signal(
    settings: Settings, number: signal.Signals, kind: str, said: str, advice: str
) -> None:
    manager = JobManager(settings)
    run = manager.start(recipes.try_it())
    wait_until(lambda: manager.state(run).phase.startswith("building"), timeout=120, what="the building of the model")
    trainer = manager.state(run).trainer
    assert trainer is not None
    os.kill(trainer.pid, number)
    state = wait_for_end(manager, run, timeout=60)
    assert (state.status, state.exit_code) == ("failed", -number)
    assert state.error is not None
    assert state.error.kind == kind
    assert said in state.error.what_happened
    assert advice in state.error.what_to_do
    assert "Building the demo model" in state.error.details
    if number != signal.SIGKILL:
        assert state.last_line.startswith("Fatal Python error")
        assert "most recent call first" in state.error.details


def test_a_python_that_is_gone_is_told_at_the_start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = JobManager(settings)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    state = manager.state(manager.start(recipes.try_it()))
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.kind == "install"
    assert "/no/such/python" in state.error.what_happened
    assert manager.waiting() == []


@pytest.mark.parametrize("broken", ["train/__init__.py", "train/__main__.py", "jobs/supervisor.py"])
def test_a_package_that_is_missing_is_named_with_what_to_install(
    settings: Settings, tmp_path: Path, broken: str
) -> None:
    """A copy of the program in which a module needs a package that nobody has."""
    root = tmp_path / "copy"
    shutil.copytree(PROJECT_ROOT / "gemma_ft", root / "gemma_ft", ignore=shutil.ignore_patterns("__pycache__"))
    module = root / "gemma_ft" / broken
    future = "from __future__ import annotations\n"
    text = module.read_text()
    module.write_text(text.replace(future, f"{future}{NEEDS}") if future in text else NEEDS)
    run = create_run(settings.runs, recipes.try_it())
    start_elsewhere(settings, root)
    state = wait_for_end(JobManager(settings), run, timeout=60)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.kind == "install", state.error
    assert state.error.what_happened == "ModuleNotFoundError: No module named 'no_such_package'"
    assert "requirements.txt" in state.error.what_to_do
    assert "import no_such_package" in state.error.details


@pytest.mark.parametrize(("ran_out", "kind"), [(True, "memory"), (False, "killed")])
def test_a_process_of_several_that_was_killed_is_told_by_the_kernels_counter(
    settings: Settings, ran_out: bool, kind: str
) -> None:
    run = create_run(settings.runs, recipes.try_it())
    facts = FactWriter(run.events)
    facts.append("result", outcome="failed", attempt=1, error=PeerLost().report.model_dump())
    state = conclude(run, run.state(), 1, memory_ran_out=ran_out)
    assert state.error is not None
    assert (state.status, state.error.kind) == ("failed", kind)


def hungry_run(settings: Settings, tmp_path: Path, rows: int = ROWS, **changes: object) -> RunDir:
    """A run with long rows in one large batch, which needs gigabytes."""
    data = tmp_path / "long.jsonl"
    data.write_text(
        "\n".join(json.dumps({"prompt": f"Say {n}", "completion": f"word {n} " * 500}) for n in range(2 * rows))
    )
    base = recipes.try_it()
    training = base.training.model_copy(
        update={
            "batch_size": rows,
            "max_length": 1024,
            "max_steps": 2,
            "epochs": 1,
            "eval_every": 0,
            "save_every": 1,
            "gradient_checkpointing": "off",
            **changes,
        }
    )
    source = base.data.model_copy(update={"source": "file", "path": str(data), "validation_fraction": 0.0})
    asked = base.evaluation.model_copy(update={"prompts": ()})
    config: RunConfig = base.model_copy(update={"training": training, "data": source, "evaluation": asked})
    return create_run(settings.runs, config)


def kills_in(run: RunDir) -> list[int]:
    """Return the attempts that the kernel ended, as the facts have them."""
    return [fact["attempt"] for fact in read_facts(run.events)[0] if fact.get("kind") == KILLED_FOR_MEMORY]


@pytest.mark.train
@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_run_that_the_kernel_kills_goes_on_with_a_smaller_batch(demo_settings: Settings, tmp_path: Path) -> None:
    run = hungry_run(demo_settings, tmp_path)
    with memory_group_or_skip(limit=LIMIT) as group:
        start_elsewhere(demo_settings, group=group)
        manager = JobManager(demo_settings)
        state = wait_for_end(manager, run, timeout=500)
    assert state.status == "finished", f"{state.error}\n{run.log.read_text()[-3000:]}"
    killed = kills_in(run)
    assert killed
    assert killed == list(range(1, state.attempt))
    facts = RunFacts(run.events).refresh()
    assert [fact["step"] for fact in facts.steps] == [1, 2]
    smaller = [fact for fact in read_facts(run.events)[0] if fact.get("kind") == "out_of_memory"]
    assert len(smaller) >= len(killed)
    assert all(fact["batch_size"] * fact["accumulation"] == ROWS for fact in smaller)
    assert any("kernel ended the training" in warning for warning in facts.warnings)
    assert run.model.is_dir()


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_run_that_may_not_shrink_says_that_the_kernel_killed_it(demo_settings: Settings, tmp_path: Path) -> None:
    run = hungry_run(demo_settings, tmp_path, on_out_of_memory="stop")
    with memory_group_or_skip(limit=LIMIT) as group:
        start_elsewhere(demo_settings, group=group)
        state = wait_for_end(JobManager(demo_settings), run, timeout=300)
    assert (state.status, state.attempt, state.exit_code) == ("failed", 1, -signal.SIGKILL)
    assert state.error is not None
    assert state.error.kind == "memory"
    assert "kernel" in state.error.title
    assert kills_in(run) == []


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_when_nothing_smaller_is_left_the_run_fails_and_can_be_resumed(demo_settings: Settings, tmp_path: Path) -> None:
    """Neither can more be accumulated nor more be computed twice."""
    run = hungry_run(demo_settings, tmp_path, gradient_checkpointing="on", accumulation=1024, max_steps=1)
    with memory_group_or_skip(limit=800_000_000) as group:
        start_elsewhere(demo_settings, group=group)
        state = wait_for_end(JobManager(demo_settings), run, timeout=300)
    assert (state.status, state.attempt) == ("failed", 2), run.log.read_text()[-2000:]
    assert kills_in(run) == [1]
    assert state.error is not None
    assert state.error.kind == "memory"
    assert "nothing smaller" in state.error.what_happened
