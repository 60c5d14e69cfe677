"""A run that was stopped and goes on in another process ends with the very weights of one that was never stopped.

The rows come in another order in each epoch and the adapters have dropout, so the state of every random number counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from gemma_ft.config import EvaluationConfig, MethodConfig, ModelConfig, RunConfig, TrainingConfig
from gemma_ft.data.samples import Pair, Sample
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import RunDir, create_run
from tuned_gemmas import make_models, tune_until

pytestmark = pytest.mark.train

WORDS = ("red", "green", "blue", "black", "white", "brown", "grey")
EPOCHS = 3
BATCHES = 4
"""Of an epoch: seven rows, two at once."""


def turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def asked(word: str) -> list[dict[str, Any]]:
    return [turn("user", f"Say {word}.")]


SAMPLES: dict[str, list[Sample]] = {
    "sft": [[*asked(word), turn("assistant", f"I say {word} and {word} again.")] for word in WORDS],
    "dpo": [Pair(asked(word), turn("assistant", word), turn("assistant", "No.")) for word in WORDS],
}
METHODS: dict[str, dict[str, Any]] = {
    "sft lora": {},
    "sft full": {"adapter": "none"},
    "sft qlora": {"adapter": "qlora"},
    "dpo lora": {"objective": "dpo"},
    "dpo full": {"objective": "dpo", "adapter": "none"},
}


def new_child() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))


@pytest.fixture(scope="module")
def first() -> Iterator[ProcessPoolExecutor]:
    """The process of runs that are not stopped, and of the beginning of those that are."""
    with new_child() as pool:
        yield pool


@pytest.fixture(scope="module")
def second() -> Iterator[ProcessPoolExecutor]:
    """The process in which a stopped run goes on."""
    with new_child() as pool:
        yield pool


@pytest.fixture(scope="module")
def models(first: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    first.submit(make_models, folder, ["gemma3", "gemma4"]).result(300)
    return folder


def config_for(base: Path, method: dict[str, Any], **training: Any) -> RunConfig:
    given = {"epochs": EPOCHS, "batch_size": 2, "max_length": 48, "learning_rate": 3e-3, "schedule": "cosine"}
    given |= {"eval_every": 0, "save_every": 0, **training}
    return RunConfig(
        model=ModelConfig(id=str(base), precision="float32"),
        method=MethodConfig(**{"rank": 4, "dropout": 0.2, **method}),
        training=TrainingConfig(**given),
        evaluation=EvaluationConfig(prompts=()),
    )


def saved(run: RunDir) -> dict[str, bytes]:
    """The files of weights in the result."""
    return {path.name: path.read_bytes() for path in run.model.glob("*.safetensors")}


def check_going_on(
    first: ProcessPoolExecutor, second: ProcessPoolExecutor, runs: Path, config: RunConfig, batches: int, done: int
) -> None:
    """Compare a run at once with one that is stopped at so many batches, when so many steps are `done`."""
    base, samples = Path(config.model.id), SAMPLES[config.method.objective]
    whole, parted = create_run(runs, config), create_run(runs, config)
    assert first.submit(tune_until, whole, base, samples, [], 0).result(300)
    assert not first.submit(tune_until, parted, base, samples, [], batches).result(300)
    assert [path.name for path in parted.checkpoints.iterdir()] == [f"checkpoint-{done}"]
    parted.clear_wishes()
    assert second.submit(tune_until, parted, base, samples, [], 0).result(300)
    losses = [
        [(fact["step"], fact["loss"]) for fact in RunFacts(run.events).refresh().steps] for run in (whole, parted)
    ]
    assert losses[0] == losses[1]
    assert len(saved(whole)) == 1
    assert saved(whole) == saved(parted)


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *(pytest.param("gemma3", method, marks=() if method != "dpo full" else pytest.mark.slow) for method in METHODS),
        *(pytest.param("gemma4", method, marks=() if method == "sft lora" else pytest.mark.slow) for method in METHODS),
    ],
)
def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(
    first: ProcessPoolExecutor, second: ProcessPoolExecutor, models: Path, tmp_path: Path, family: str, method: str
) -> None:
    middle_of_an_epoch = BATCHES + 2
    config = config_for(models / family, METHODS[method])
    check_going_on(first, second, tmp_path, config, middle_of_an_epoch, middle_of_an_epoch)


@pytest.mark.parametrize(
    "batches",
    [6, 7, 8, 9],
    ids=["at a step", "within a step", "at the end of an epoch", "within the first step of an epoch"],
)
def test_a_run_that_adds_up_batches_can_be_stopped_at_any_of_them(
    first: ProcessPoolExecutor, second: ProcessPoolExecutor, models: Path, tmp_path: Path, batches: int
) -> None:
    config = config_for(models / "gemma3", METHODS["sft lora"], accumulation=2)
    check_going_on(first, second, tmp_path, config, batches, batches // 2)


def test_a_run_that_has_made_all_its_steps_makes_none_more(
    first: ProcessPoolExecutor, second: ProcessPoolExecutor, models: Path, tmp_path: Path
) -> None:
    """It was ended while the result was being written; its last step is in the middle of an epoch."""
    steps = BATCHES + 2
    config = config_for(models / "gemma3", METHODS["sft lora"], max_steps=steps, save_every=3, schedule="constant")
    run = create_run(tmp_path, config)
    assert first.submit(tune_until, run, Path(config.model.id), SAMPLES["sft"], [], 0).result(300)
    weights = saved(run)
    shutil.rmtree(run.model)
    assert second.submit(tune_until, run, Path(config.model.id), SAMPLES["sft"], [], 0).result(300)
    assert [fact["step"] for fact in RunFacts(run.events).refresh().steps] == list(range(1, steps + 1))
    assert saved(run) == weights
    assert len(weights) == 1


def test_an_evaluation_that_a_stop_left_out_is_made_up_for(
    first: ProcessPoolExecutor, second: ProcessPoolExecutor, models: Path, tmp_path: Path
) -> None:
    samples, held_out = SAMPLES["sft"][:-2], SAMPLES["sft"][-2:]
    config = config_for(models / "gemma3", METHODS["sft lora"], eval_every=2)
    base = Path(config.model.id)
    whole, parted = create_run(tmp_path, config), create_run(tmp_path, config)
    assert first.submit(tune_until, whole, base, samples, held_out, 0).result(300)
    assert not first.submit(tune_until, parted, base, samples, held_out, 4).result(300)
    parted.clear_wishes()
    assert second.submit(tune_until, parted, base, samples, held_out, 0).result(300)
    measured = [[(e["step"], e["loss"]) for e in RunFacts(run.events).refresh().evals] for run in (whole, parted)]
    assert [step for step, _ in measured[0]] == [2, 4, 6, 8, 9]
    assert measured[0] == measured[1]
    assert saved(whole) == saved(parted)


def test_a_run_can_be_stopped_twice_within_the_first_step_of_an_epoch(
    first: ProcessPoolExecutor, second: ProcessPoolExecutor, models: Path, tmp_path: Path
) -> None:
    config = config_for(models / "gemma3", METHODS["sft lora"], accumulation=2)
    base, samples = Path(config.model.id), SAMPLES["sft"]
    whole, parted = create_run(tmp_path, config), create_run(tmp_path, config)
    assert first.submit(tune_until, whole, base, samples, [], 0).result(300)
    for batches in (BATCHES + 1, 1):
        assert not first.submit(tune_until, parted, base, samples, [], batches).result(300)
        assert [path.name for path in parted.checkpoints.iterdir()] == [f"checkpoint-{BATCHES // 2}"]
        parted.clear_wishes()
    assert second.submit(tune_until, parted, base, samples, [], 0).result(300)
    assert len(saved(whole)) == 1
    assert saved(whole) == saved(parted)
