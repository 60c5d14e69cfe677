"""Running out of memory is answered: a real trainer whose address space is limited goes on with smaller batches."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_ft import recipes
from gemma_ft.config import RunConfig
from gemma_ft.events import read_facts
from gemma_ft.jobs.spawn import PROJECT_ROOT, own_environment
from gemma_ft.rundir import RunDir, create_run
from gemma_ft.settings import Settings
from gemma_ft.train.fitting import needing_less

ROWS, LENGTH = 96, 1024


def with_training(**changes: object) -> RunConfig:
    config = recipes.try_it()
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def changes_of(config: RunConfig) -> tuple[int, int, str] | None:
    less = needing_less(config)
    return less and (
        less.config.training.batch_size,
        less.config.training.accumulation,
        less.config.training.gradient_checkpointing,
    )


def test_the_batch_shrinks_and_the_effective_batch_stays() -> None:
    for size, accumulation, then in ((16, 1, (8, 2)), (6, 3, (3, 6)), (9, 1, (3, 3)), (5, 2, (1, 10))):
        found = changes_of(with_training(batch_size=size, accumulation=accumulation, gradient_checkpointing="off"))
        assert found == (*then, "off")
        assert then[0] * then[1] == size * accumulation


def test_what_cannot_be_added_up_is_not_tried() -> None:
    assert changes_of(with_training(batch_size=2, accumulation=1024, gradient_checkpointing="off")) == (2, 1024, "on")


def test_checkpointing_comes_last_and_then_nothing() -> None:
    assert changes_of(with_training(batch_size=1, gradient_checkpointing="off")) == (1, 1, "on")
    assert changes_of(with_training(batch_size=1, gradient_checkpointing="on")) is None
    assert changes_of(with_training(batch_size=8, on_out_of_memory="stop")) is None


def long_run(settings: Settings, tmp_path: Path, **changes: object) -> RunDir:
    """A run with long rows in one large batch, which needs gigabytes."""
    data = tmp_path / "long.jsonl"
    rows = [{"prompt": f"Say {n}", "completion": f"word {n} " * 500} for n in range(ROWS)]
    data.write_text("\n".join(map(json.dumps, rows)))
    config = with_training(
        batch_size=ROWS // 2,
        max_length=LENGTH,
        max_steps=2,
        epochs=1,
        eval_every=0,
        save_every=1,
        gradient_checkpointing="off",
        **changes,
    )
    source = config.data.model_copy(update={"source": "file", "path": str(data), "validation_fraction": 0.0})
    asked = config.evaluation.model_copy(update={"prompts": ()})
    return create_run(settings.runs, config.model_copy(update={"data": source, "evaluation": asked}))


def train(run: RunDir, settings: Settings, most: int) -> subprocess.CompletedProcess[str]:
    """Train with so many bytes of address space; one thread, whose stacks are small."""
    environment = own_environment() | {"GEMMA_FT_HOME": str(settings.home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "gemma_ft.train", str(run.path)],
        env=environment | {"MALLOC_ARENA_MAX": "1"},
        cwd=PROJECT_ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.train
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_run_that_runs_out_of_memory_goes_on_with_smaller_batches(demo_settings: Settings, tmp_path: Path) -> None:
    run = long_run(demo_settings, tmp_path)
    done = train(run, demo_settings, most=3_500_000_000)
    facts, _ = read_facts(run.events)
    said = [fact for fact in facts if fact.get("kind") == "out_of_memory"]
    assert said, done.stderr[-2000:]
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(fact["batch_size"] * fact["accumulation"] == ROWS // 2 for fact in said)
    assert "Memory ran out" in said[0]["message"]
    steps = [fact["step"] for fact in facts if fact["event"] == "step"]
    assert steps[-1] == 2
    assert run.model.is_dir()


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
def test_a_run_that_may_not_change_fails_with_the_choices(demo_settings: Settings, tmp_path: Path) -> None:
    run = long_run(demo_settings, tmp_path, on_out_of_memory="stop")
    done = train(run, demo_settings, most=3_500_000_000)
    facts, _ = read_facts(run.events)
    assert done.returncode == 1, done.stderr[-2000:]
    assert facts[-1]["error"]["kind"] == "memory"
    assert "Halve the batch size" in facts[-1]["error"]["what_to_do"]
    assert not run.model.exists()
