"""Numbers that are not finite, in real trainings: one bad step heals, broken weights end the run and are never kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from broken_gemmas import is_sound, tune_breaking
from conftest import wait_for_end
from gemma_ft import recipes
from gemma_ft.config import EvaluationConfig, MethodConfig, ModelConfig, RunConfig, TrainingConfig
from gemma_ft.data.samples import Sample
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import RunDir, create_run
from gemma_ft.settings import Settings
from gemma_ft.train.resolve import DEMO_FOLDER
from tuned_gemmas import make_models

pytestmark = pytest.mark.train

STEPS = 6
SAMPLES: list[Sample] = [
    [{"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": f"I say {word}."}]
    for word in ("red", "green", "blue", "black", "white", "brown")
]


@pytest.fixture(scope="module")
def child() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def base(child: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    child.submit(make_models, folder, ["gemma3"]).result(300)
    return folder / "gemma3"


def new_run(runs: Path, base: Path, **training: Any) -> RunDir:
    given = {"max_steps": STEPS, "batch_size": 2, "max_length": 48, "learning_rate": 3e-3, "schedule": "constant"}
    given |= {"warmup_fraction": 0.0, "eval_every": 0, "save_every": 1, "keep_checkpoints": 1, **training}
    config = RunConfig(
        model=ModelConfig(id=str(base), precision="float32"),
        method=MethodConfig(rank=4),
        training=TrainingConfig(**given),
        evaluation=EvaluationConfig(prompts=()),
    )
    return create_run(runs, config)


def names(run: RunDir) -> list[str]:
    return sorted(path.name for path in run.checkpoints.glob("*"))


def finite(values: list[Any]) -> list[bool]:
    return [math.isfinite(float(value)) for value in values]


@pytest.mark.parametrize("bad", [(1,), (3,), (3, 4)], ids=str)
@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("adafactor", marks=pytest.mark.slow)])
def test_a_step_or_two_without_a_usable_gradient_are_passed_over_and_heal(
    child: ProcessPoolExecutor, base: Path, tmp_path: Path, bad: tuple[int, ...], optimizer: str
) -> None:
    run = new_run(tmp_path, base, optimizer=optimizer)
    assert child.submit(tune_breaking, run, base, SAMPLES, activations=bad).result(300) is None
    facts = RunFacts(run.events).refresh()
    good = [step not in bad for step in range(1, STEPS + 1)]
    assert finite([fact["loss"] for fact in facts.steps]) == good
    assert finite([fact.get("grad_norm", "nan") for fact in facts.steps]) == good
    assert [warning.partition(" was")[0] for warning in facts.warnings] == [f"Step {step}" for step in bad]
    assert facts.steps[-1]["loss"] < next(fact["loss"] for fact in facts.steps if fact["step"] not in bad)
    assert names(run) == [f"checkpoint-{STEPS}"]
    assert run.model.is_dir()


def test_a_training_that_stays_not_finite_ends_and_keeps_what_was_good(
    child: ProcessPoolExecutor, base: Path, tmp_path: Path
) -> None:
    run = new_run(tmp_path, base)
    error = child.submit(tune_breaking, run, base, SAMPLES, activations=range(3, 100)).result(300)
    assert error is not None
    assert error.kind == "not_finite"
    assert "3 times in a row, up to step 5" in error.what_happened
    assert "checkpoint of step 1 is from before" in error.what_happened
    assert "lower learning rate" in error.what_to_do
    assert names(run) == ["checkpoint-1", "checkpoint-2"], "the weights of step 2 are under suspicion"
    assert child.submit(is_sound, run, names(run)).result(60) == dict.fromkeys(names(run), True)
    assert not run.model.exists()
    assert not list(run.path.glob(".writing"))

    assert child.submit(tune_breaking, run, base, SAMPLES).result(300) is None
    steps = RunFacts(run.events).refresh().steps
    assert [fact["step"] for fact in steps] == list(range(1, STEPS + 1))
    assert all(finite([fact["loss"] for fact in steps]))
    assert run.model.is_dir()


@pytest.mark.parametrize(("at", "save_every", "kept"), [(3, 1, ["checkpoint-2"]), (STEPS, 0, [])])
def test_weights_that_are_not_finite_are_never_saved(
    child: ProcessPoolExecutor, base: Path, tmp_path: Path, at: int, save_every: int, kept: list[str]
) -> None:
    run = new_run(tmp_path, base, save_every=save_every)
    error = child.submit(tune_breaking, run, base, SAMPLES, weights=at).result(300)
    assert error is not None
    assert error.kind == "not_finite"
    assert f"At step {at} weights became NaN" in error.what_happened
    assert names(run) == kept
    assert child.submit(is_sound, run, kept).result(60) == dict.fromkeys(kept, True)
    assert not run.model.exists()


def test_a_run_whose_model_overflows_fails_in_words(settings: Settings, demo_models: Path, tmp_path: Path) -> None:
    """The last norm of this model is so large that no answer has a finite probability."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "overflowing"
    shutil.copytree(demo_models / DEMO_FOLDER, folder)
    weights = load_file(folder / "model.safetensors")
    norm = next(name for name in weights if name.endswith("model.norm.weight") or name == "norm.weight")
    weights[norm] = torch.full_like(weights[norm], 3e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    base = recipes.try_it().changed({"model.id": str(folder), "training.max_steps": 10, "training.eval_every": 0})
    config = base.model_copy(update={"evaluation": EvaluationConfig(prompts=())})
    manager = JobManager(settings)
    run = manager.start(config)
    state = wait_for_end(manager, run)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.kind == "not_finite", run.log.read_text()[-3000:]
    assert "up to step 3" in state.error.what_happened
    assert [fact["step"] for fact in RunFacts(run.events).refresh().steps] == [1, 2]
    assert not run.model.exists()
