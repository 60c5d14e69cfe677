"""Weights that are spread over two processes (FSDP2 over gloo): the steps and the result of one, half the weights each.

It is the code that runs on GPUs, but for the kind of memory and what the processes talk through.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import EvaluationConfig, RunConfig
from gemma_ft.errors import ConfigError
from gemma_ft.events import read_facts
from gemma_ft.jobs.manager import JobManager
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings

TIMEOUT = 500
"""Seconds; the machine may be busy with other things."""
LOGITS = """
import json, sys
from pathlib import Path
import torch
from gemma_ft.config import RunConfig
from gemma_ft.train.loading import load_result
base, *results = sys.argv[1:]
found = []
for result in results:
    config = RunConfig.model_validate_json((Path(result).parent / "config.json").read_text())
    model, tokenizer = load_result(Path(base), Path(result), config)
    ids = tokenizer("What is the capital of France?", return_tensors="pt").input_ids
    with torch.no_grad():
        found.append(model(input_ids=ids).logits.float())
print(json.dumps({"apart": float((found[0] - found[1]).abs().max()), "size": float(found[0].abs().max())}))
"""


def config_with(processes: int, **knobs: Any) -> RunConfig:
    """A short run of the demo model; `knobs` by their whole names, with _ for the dot."""
    base = recipes.try_it().model_copy(
        update={"evaluation": EvaluationConfig(prompts=("What is 2?",), max_new_tokens=4)}
    )
    given: dict[str, Any] = {
        "compute.processes": processes,
        "compute.sharding": "on" if processes > 1 else "auto",
        "training.max_steps": 4,
        "training.batch_size": 4,
        "training.eval_every": 2,
        "training.save_every": 0,
        "training.learning_rate": 1e-3,
        "method.dropout": 0.0,
    }
    return base.changed(given | {name.replace("__", "."): value for name, value in knobs.items()})


def finish(settings: Settings, config: RunConfig) -> RunDir:
    manager = JobManager(settings)
    run = manager.start(config)
    state = wait_for_end(manager, run, timeout=TIMEOUT)
    assert state.status == "finished", f"{state.error}\n{run.log.read_text()}"
    return run


def require_same_steps(one: RunDir, two: RunDir) -> None:
    alone, together = (RunFacts(run.events).refresh() for run in (one, two))
    assert [fact["step"] for fact in together.steps] == [fact["step"] for fact in alone.steps]
    for by_one, by_two in zip(alone.evals, together.evals, strict=True):
        # Means of batches are averaged, and the held-out rows make other batches for two.
        assert by_two["loss"] == pytest.approx(by_one["loss"], rel=0.02)
    for by_one, by_two in zip(alone.steps, together.steps, strict=True):
        assert by_two["loss"] == pytest.approx(by_one["loss"], abs=1e-4)
        assert by_two["grad_norm"] == pytest.approx(by_one["grad_norm"], rel=1e-3)
    assert [fact["answer"] for fact in together.samples] == [fact["answer"] for fact in alone.samples]


def require_same_result(settings: Settings, one: RunDir, two: RunDir) -> None:
    assert sorted(path.name for path in two.model.iterdir()) == sorted(path.name for path in one.model.iterdir())
    base = next(path for path in settings.models.iterdir() if (path / "config.json").is_file())
    done = subprocess.run(
        [sys.executable, "-c", LOGITS, str(base), str(one.model), str(two.model)],
        env=own_environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["apart"] < 1e-3 < found["size"]


def require_half_each(run: RunDir) -> None:
    facts = {fact["event"]: fact for fact in read_facts(run.events)[0]}
    held, model = facts["sharding"]["held"], facts["model"]
    whole = model["parameters"] + (model["trained"] if run.config().method.adapter != "none" else 0)
    assert sum(held) == whole
    assert len(held) == 2
    assert all(0.45 * whole < each < 0.55 * whole for each in held)


FULL: dict[str, Any] = {"method__adapter": "none"}
DPO: dict[str, Any] = {
    "method__objective": "dpo",
    "data__source": "file",
    "data__format": "preference",
    "training__learning_rate": 1e-4,
}


@pytest.mark.train
def test_every_weight_is_tuned_as_by_one_process(demo_settings: Settings) -> None:
    one, two = (finish(demo_settings, config_with(n, **FULL)) for n in (1, 2))
    require_same_steps(one, two)
    require_half_each(two)
    require_same_result(demo_settings, one, two)


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize(
    "knobs",
    [
        {"method__adapter": "lora"},
        {"method__adapter": "lora", "method__dora": True, "training__gradient_checkpointing": "on"},
        {**FULL, "training__gradient_checkpointing": "on", "training__batch_size": 2, "training__accumulation": 2},
        {**FULL, "training__packing": True},
    ],
    ids=["lora", "dora, computed twice", "full, computed twice, added up", "full, packed"],
)
def test_other_methods_make_the_steps_of_one_process_too(demo_settings: Settings, knobs: dict[str, Any]) -> None:
    one, two = (finish(demo_settings, config_with(n, **knobs)) for n in (1, 2))
    require_same_steps(one, two)
    require_half_each(two)
    require_same_result(demo_settings, one, two)


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_preferences_are_learned_as_by_one_process(demo_settings: Settings, tmp_path: Path, adapter: str) -> None:
    rows = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(8)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = DPO | {"data__path": str(data), "data__validation_fraction": 0.0, "method__adapter": adapter}
    given |= {"training__eval_every": 0}
    one, two = (finish(demo_settings, config_with(n, **given)) for n in (1, 2))
    require_same_steps(one, two)
    require_half_each(two)
    require_same_result(demo_settings, one, two)


@pytest.mark.train
@pytest.mark.slow
def test_the_best_weights_become_the_result(demo_settings: Settings) -> None:
    """The learning rate is nought in the first step and spoils the model in the others; the last is not the best."""
    given = FULL | {"training__keep_best": True, "training__learning_rate": 0.05, "training__schedule": "constant"}
    given |= {"training__eval_every": 1, "training__max_steps": 4}
    one, two = (finish(demo_settings, config_with(n, **given)) for n in (1, 2))
    best = [fact["step"] for run in (one, two) for fact in read_facts(run.events)[0] if fact.get("kind") == "best"]
    assert len(best) == 2
    assert best[0] == best[1] < 4
    require_same_result(demo_settings, one, two)


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_stopped_run_goes_on_to_the_same_result(demo_settings: Settings, adapter: str) -> None:
    given: dict[str, Any] = {"method__adapter": adapter, "method__dropout": 0.2, "training__eval_every": 0}
    config = config_with(2, training__max_steps=40, **given)
    whole = finish(demo_settings, config)
    manager, parted = stopped_on_the_way(demo_settings, config)
    go_on(manager, parted)
    assert losses_of(whole) == losses_of(parted)
    require_same_result(demo_settings, whole, parted)


@pytest.mark.train
@pytest.mark.slow
def test_another_number_of_processes_goes_on_and_one_alone_refuses(demo_settings: Settings) -> None:
    given = FULL | {
        "training__max_steps": 30,
        "training__eval_every": 0,
    }  # within an epoch, whose last batch is filled up
    config = config_with(2, **given)
    whole = finish(demo_settings, config_with(1, **given))
    manager, run = stopped_on_the_way(demo_settings, config)
    as_if_configured(run, {"compute.processes": 1, "compute.sharding": "auto"})
    manager.resume(run.run_id)
    state = wait_for_end(manager, run, timeout=TIMEOUT)
    assert state.status == "failed"
    assert state.error is not None
    assert "spread" in state.error.what_happened
    as_if_configured(run, {"compute.processes": 4, "compute.sharding": "auto"})
    go_on(manager, run)
    facts = read_facts(run.events)[0]
    assert any("written by 2 processes, and 4 go on" in fact.get("message", "") for fact in facts)
    assert [len(fact["held"]) for fact in facts if fact["event"] == "sharding"] == [2, 4]
    assert losses_of(run) == pytest.approx(losses_of(whole), abs=1e-3)


def stopped_on_the_way(settings: Settings, config: RunConfig) -> tuple[JobManager, RunDir]:
    manager = JobManager(settings)
    run = manager.start(config)
    wait_until(lambda: RunFacts(run.events).refresh().steps[2:], timeout=TIMEOUT, what="a few steps")
    manager.stop(run.run_id)
    assert wait_for_end(manager, run, timeout=TIMEOUT).status == "stopped", run.log.read_text()
    assert [(path / "parts").is_dir() for path in run.checkpoints.iterdir()] == [True]
    return manager, run


def go_on(manager: JobManager, run: RunDir) -> None:
    manager.resume(run.run_id)
    state = wait_for_end(manager, run, timeout=TIMEOUT)
    assert state.status == "finished", f"{state.error}\n{run.log.read_text()}"


def losses_of(run: RunDir) -> list[float]:
    return [fact["loss"] for fact in RunFacts(run.events).refresh().steps]


def as_if_configured(run: RunDir, changes: dict[str, Any]) -> None:
    """Have the run find another number of processes than before, as on a machine with other GPUs."""
    (run.path / "config.json").write_text(run.config().changed(changes).model_dump_json())


def test_what_cannot_be_spread_is_refused_in_words() -> None:
    for name, value in (("method__adapter", "qlora"), ("training__optimizer", "adafactor")):
        with pytest.raises(ConfigError, match=r"compute\.sharding"):
            config_with(2, **{name: value})


def test_one_process_refuses_to_spread(demo_settings: Settings) -> None:
    manager = JobManager(demo_settings)
    run = manager.start(config_with(2).changed({"compute.processes": 1}))
    state = wait_for_end(manager, run, timeout=TIMEOUT)
    assert state.status == "failed"
    assert state.error is not None
    assert state.error.kind == "config"
    assert "compute.sharding" in state.error.what_happened
