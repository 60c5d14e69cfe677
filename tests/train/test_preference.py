"""DPO end to end: the better answers win, the figures are true, the reference stays, and a stopped run goes on."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import wait_for_end, wait_until
from gemma_ft import recipes
from gemma_ft.config import DataConfig, EvaluationConfig, MethodConfig, RunConfig
from gemma_ft.data.prepare import prepare
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings
from gemma_ft.train.resolve import DEMO_FOLDER

pytestmark = pytest.mark.train

BETA = 0.3
STEPS = 24
LIMIT = 64


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions for capitals: the better answer names one, the worse one is what the demo model says."""
    rows = []
    for sample in prepare(DataConfig(validation_fraction=0.0)).train[:64]:
        asked, answered = (turn["content"] for turn in sample)  # type: ignore[union-attr]
        rows.append({"prompt": asked, "chosen": answered, "rejected": "The capital letter is a ripe pear."})
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def preferring(pairs: Path, adapter: str = "lora", **training: Any) -> RunConfig:
    given = {"max_steps": STEPS, "learning_rate": 2e-3, "batch_size": 8, "accumulation": 2, "max_length": LIMIT}
    given |= {"eval_every": 0, "save_every": 0, "log_every": 1, **training}
    base = recipes.try_it()
    return base.model_copy(
        update={
            "data": DataConfig(source="file", path=str(pairs), validation_fraction=0.25),
            "method": MethodConfig(objective="dpo", beta=BETA, adapter=adapter, rank=8, dropout=0.0),  # type: ignore[arg-type]
            "training": base.training.model_copy(update=given),
            "evaluation": EvaluationConfig(prompts=("What is the capital of France?",), max_new_tokens=16),
        }
    )


def finish(manager: JobManager, run: RunDir) -> RunFacts:
    state = wait_for_end(manager, run)
    assert state.status == "finished", f"{state.error}\n{run.log.read_text()}"
    return RunFacts(run.events).refresh()


@pytest.fixture(scope="module")
def whole_run(pairs: Path, demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    settings.models.symlink_to(demo_models)
    manager = JobManager(settings)
    run = manager.start(preferring(pairs, save_every=12))
    finish(manager, run)
    return run


def test_the_margin_grows_from_nothing_and_the_loss_falls_from_the_logarithm_of_2(whole_run: RunDir) -> None:
    steps = RunFacts(whole_run.events).refresh().steps
    assert [fact["step"] for fact in steps] == list(range(1, STEPS + 1))
    assert steps[0]["loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert steps[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["loss"] < 0.2
    assert steps[-1]["reward_margin"] > 2
    assert steps[-1]["reward_accuracy"] > 0.9
    for fact in steps:
        assert fact["chosen_reward"] - fact["rejected_reward"] == pytest.approx(fact["reward_margin"], abs=1e-4)
    assert {"tokens", "grad_norm", "learning_rate", "token_accuracy"} <= steps[-1].keys()


def test_the_figures_of_the_held_out_pairs_are_those_of_the_saved_adapter(whole_run: RunDir, demo_models: Path) -> None:
    import torch

    from gemma_ft.train.encode import IGNORED, EncodedPair, encode
    from gemma_ft.train.loading import load_result

    config = whole_run.config()
    model, tokenizer = load_result(demo_models / DEMO_FOLDER, whole_run.model, config)

    def likelihood(ids: list[int], labels: list[int]) -> float:
        with torch.no_grad():
            found = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        return sum(float(found[at, label]) for at, label in enumerate(labels[1:]) if label != IGNORED)

    margins = []
    for sample in prepare(config.data, "dpo").validation:
        row = encode(sample, tokenizer, LIMIT)
        assert isinstance(row, EncodedPair)
        tuned = [likelihood(found.input_ids, found.labels) for found in row.sequences]
        with model.disable_adapter():
            base = [likelihood(found.input_ids, found.labels) for found in row.sequences]
        margins.append(BETA * ((tuned[0] - base[0]) - (tuned[1] - base[1])))
    (measured,) = RunFacts(whole_run.events).refresh().evals
    assert measured["step"] == STEPS
    assert measured["reward_margin"] == pytest.approx(sum(margins) / len(margins), rel=1e-3)
    assert measured["reward_accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / len(margins))
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    assert measured["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-2)


def test_only_an_adapter_is_trained_and_saved(whole_run: RunDir) -> None:
    from safetensors.torch import load_file

    facts = RunFacts(whole_run.events).refresh()
    saved = load_file(whole_run.model / "adapter_model.safetensors")
    assert all("lora_" in name for name in saved)
    assert facts.model["trained"] == sum(tensor.numel() for tensor in saved.values())
    assert not list(whole_run.path.rglob("model.safetensors"))
    assert not list(whole_run.path.rglob("ref"))
    assert not list(whole_run.path.rglob("training_args.bin"))
    assert {path.name for path in whole_run.checkpoints.iterdir()} == {"checkpoint-12", "checkpoint-24"}
    assert any(whole_run.tensorboard.iterdir())
    assert {fact["step"] for fact in facts.samples} == {0, STEPS}


def test_a_dpo_run_says_what_it_is(whole_run: RunDir) -> None:
    facts = RunFacts(whole_run.events).refresh()
    assert (facts.data["objective"], facts.data["format"], facts.data["train"]) == ("dpo", "preference", 48)
    card = (whole_run.model / "README.md").read_text()
    assert "tuned with DPO and LoRA on 48 pairs" in card
    assert "- dpo" in card


def test_a_run_that_broke_off_goes_on_as_if_it_had_not(whole_run: RunDir, demo_settings: Settings) -> None:
    """The run as it would be had the machine gone down after step 12 was saved and some more were made."""
    run = RunDir(demo_settings.runs / whole_run.run_id)
    shutil.copytree(whole_run.path, run.path)
    shutil.rmtree(run.model)
    shutil.rmtree(run.checkpoints / f"checkpoint-{STEPS}")
    run.write_state(run.state().model_copy(update={"status": "interrupted", "supervisor": None, "trainer": None}))
    manager = JobManager(demo_settings)
    manager.resume(run.run_id)
    facts = finish(manager, run)
    resumed, at_once = facts.steps, RunFacts(whole_run.events).refresh().steps
    assert [fact["step"] for fact in resumed] == list(range(1, STEPS + 1))
    assert facts.generation == 1, "what came after step 12 was made again"
    for name in ("loss", "reward_margin"):
        assert [fact[name] for fact in resumed] == pytest.approx([fact[name] for fact in at_once], rel=0.01, abs=0.005)


@pytest.mark.slow
def test_full_tuning_is_measured_against_the_model_as_it_was_also_after_a_resume(
    pairs: Path, demo_settings: Settings, demo_models: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    manager = JobManager(demo_settings)
    run = stopped_after_some_steps(manager, preferring(pairs, "none", learning_rate=3e-4))
    stopped_at = RunFacts(run.events).refresh().steps[-1]["step"]
    manager.resume(run.run_id)
    facts = finish(manager, run)
    margins = [fact["reward_margin"] for fact in facts.steps]
    assert [fact["step"] for fact in facts.steps] == list(range(1, STEPS + 1))
    assert facts.steps[0]["loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert margins[stopped_at] > 0.5 * margins[stopped_at - 1] > 0
    assert margins[-1] > 1
    before = load_file(demo_models / DEMO_FOLDER / "model.safetensors")
    after = load_file(run.model / "model.safetensors")
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert facts.model["trained"] == facts.model["parameters"]
    assert "DPO and full fine-tuning" in (run.model / "README.md").read_text()


def stopped_after_some_steps(manager: JobManager, config: RunConfig) -> RunDir:
    run = manager.start(config)
    wait_until(lambda: len(RunFacts(run.events).refresh().steps) > 5, timeout=120, what="a few steps")
    manager.stop(run.run_id)
    assert wait_for_end(manager, run).status == "stopped"
    assert RunFacts(run.events).refresh().steps[-1]["step"] < STEPS
    return run
