"""The best weights on the held-out rows can be the result, and a run that gets no better can end by itself.

The model knows one form of answers. It learns another, always with the same city. Held out are answers of both forms
with other cities: first the new form makes them likelier, then the one city and the lost form make them unlikelier.
That is so on every machine, however its arithmetic rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from gemma_ft.config import EvaluationConfig, MethodConfig, ModelConfig, RunConfig, TrainingConfig
from gemma_ft.data.samples import Sample
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import RunDir, create_run
from tuned_gemmas import loss_of_the_result, make_models, tune_until

pytestmark = pytest.mark.train

STEPS, EVERY = 24, 2


def known(land: str, city: str) -> Sample:
    return [{"role": "user", "content": QUESTION.format(land)}, {"role": "assistant", "content": f"Of course {city}."}]


def learned(land: str, city: str) -> Sample:
    return [{"role": "user", "content": QUESTION.format(land)}, {"role": "assistant", "content": f"It is {city}."}]


QUESTION = "What is the capital of {}?"
LANDS = ["France", "Italy", "Spain", "Peru"]
KNOWN = [known(land, city) for land in LANDS for city in ("Paris", "Rome", "Oslo", "Cairo")]
LEARNED = [learned(land, "Paris") for land in LANDS]
HELD_OUT = [learned("France", "Oslo"), learned("Italy", "Cairo"), learned("Spain", "Rome"), known("France", "Oslo")]


def new_child() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))


@pytest.fixture(scope="module")
def child() -> Iterator[ProcessPoolExecutor]:
    with new_child() as pool:
        yield pool


@pytest.fixture(scope="module")
def base(child: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    child.submit(make_models, folder, ["gemma3"]).result(300)
    before = new_run(folder, folder / "gemma3", "none", batch_size=16, learning_rate=1e-2, eval_every=STEPS)
    assert child.submit(tune_until, before, folder / "gemma3", KNOWN, KNOWN[:1], 0).result(300)
    return before.model


def new_run(runs: Path, base: Path, adapter: str, **training: Any) -> RunDir:
    given = {"max_steps": STEPS, "batch_size": 4, "max_length": 48, "eval_every": EVERY, "save_every": 0}
    given |= {"schedule": "constant", "learning_rate": 5e-3 if adapter == "none" else 1e-2, **training}
    config = RunConfig(
        model=ModelConfig(id=str(base), precision="float32"),
        method=MethodConfig(rank=4, adapter=adapter),  # type: ignore[arg-type]
        training=TrainingConfig(**given),
        evaluation=EvaluationConfig(prompts=()),
    )
    return create_run(runs, config)


def measured(run: RunDir) -> dict[int, float]:
    """The losses on the held-out rows by step."""
    return {fact["step"]: fact["loss"] for fact in RunFacts(run.events).refresh().evals}


def best(run: RunDir) -> int:
    losses = measured(run)
    return min(losses, key=lambda step: losses[step])


@pytest.mark.parametrize("adapter", ["lora", "qlora", "none"])
@pytest.mark.parametrize("keep", [True, False], ids=["best", "last"])
def test_the_result_is_of_the_best_step_or_of_the_last(
    child: ProcessPoolExecutor, base: Path, tmp_path: Path, adapter: str, keep: bool
) -> None:
    run = new_run(tmp_path, base, adapter, keep_best=keep, keep_checkpoints=1)
    assert child.submit(tune_until, run, base, LEARNED, HELD_OUT, 0).result(300)
    assert list(measured(run)) == list(range(EVERY, STEPS + 1, EVERY))
    assert EVERY < best(run) < STEPS, "the test needs a run that gets better, then worse"
    loss = child.submit(loss_of_the_result, run, base, HELD_OUT).result(300)
    assert loss == pytest.approx(measured(run)[best(run) if keep else STEPS], rel=1e-4)


@pytest.mark.parametrize("keep", [True, False], ids=["best", "last"])
def test_a_run_that_gets_no_better_ends_by_itself(
    child: ProcessPoolExecutor, base: Path, tmp_path: Path, keep: bool
) -> None:
    run = new_run(tmp_path, base, "lora", early_stopping=2, keep_best=keep)
    assert child.submit(tune_until, run, base, LEARNED, HELD_OUT, 0).result(300)
    end = best(run) + 2 * EVERY
    assert end < STEPS
    assert RunFacts(run.events).refresh().steps[-1]["step"] == end
    loss = child.submit(loss_of_the_result, run, base, HELD_OUT).result(300)
    assert loss == pytest.approx(measured(run)[best(run) if keep else end], rel=1e-4)


def test_a_run_that_was_stopped_remembers_its_best_step(child: ProcessPoolExecutor, base: Path, tmp_path: Path) -> None:
    """It is stopped after the best step and goes on in another process."""
    wanted = {"keep_best": True, "early_stopping": 4, "keep_checkpoints": 1}
    whole, parted = (new_run(tmp_path, base, "lora", **wanted) for _ in range(2))
    assert child.submit(tune_until, whole, base, LEARNED, HELD_OUT, 0).result(300)
    assert not child.submit(tune_until, parted, base, LEARNED, HELD_OUT, best(whole) + EVERY + 1).result(300)
    parted.clear_wishes()
    with new_child() as other:
        assert other.submit(tune_until, parted, base, LEARNED, HELD_OUT, 0).result(300)
    assert measured(parted) == measured(whole)
    results = [(run.model / "adapter_model.safetensors").read_bytes() for run in (whole, parted)]
    assert results[0] == results[1]
