"""Small real trainings: what should change changes and nothing else, and what is saved is what was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import wait_for_end
from gemma_ft import recipes
from gemma_ft.config import RunConfig
from gemma_ft.data.prepare import prepare
from gemma_ft.jobs.manager import JobManager
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.rundir import RunDir
from gemma_ft.settings import Settings
from gemma_ft.train.resolve import DEMO_FOLDER

pytestmark = pytest.mark.train


def config_with(adapter: str = "lora", **training: Any) -> RunConfig:
    base = recipes.try_it()
    return base.model_copy(
        update={
            "method": base.method.model_copy(update={"adapter": adapter}),
            "training": base.training.model_copy(update=training),
        }
    )


def finish(settings: Settings, config: RunConfig) -> RunDir:
    manager = JobManager(settings)
    run = manager.start(config)
    state = wait_for_end(manager, run)
    assert state.status == "finished", f"{state.error}\n{run.log.read_text()}"
    return run


@pytest.fixture(scope="module")
def first_run(tuned_settings: Settings) -> RunDir:
    """The Try it run, finished."""
    return JobManager(tuned_settings).runs()[0]


def logits(model: Any, tokenizer: Any) -> Any:
    import torch

    from gemma_ft.train.encode import encode_prompt

    ids = torch.tensor([encode_prompt([{"role": "user", "content": "What is the capital of Peru?"}], tokenizer)])
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_the_tuned_model_knows_its_training_set_word_for_word_and_the_base_does_not(
    first_run: RunDir, demo_models: Path
) -> None:
    from gemma_ft.sampling import Sampling
    from gemma_ft.train.generation import answer
    from gemma_ft.train.loading import load_result

    config = first_run.config()
    model, tokenizer = load_result(demo_models / DEMO_FOLDER, first_run.model, config)
    questions = prepare(config.data).train[:60]
    sampling = Sampling(max_new_tokens=32)
    tuned = [answer(model, tokenizer, q[:1], sampling)[0] == q[1]["content"] for q in questions]
    with model.disable_adapter():
        base = [answer(model, tokenizer, q[:1], sampling)[0] == q[1]["content"] for q in questions]
    assert sum(tuned) >= 0.9 * len(questions)
    assert sum(base) == 0


def test_the_loss_falls_and_the_held_out_phrasings_are_learned_too(first_run: RunDir) -> None:
    facts = RunFacts(first_run.events).refresh()
    assert [fact["step"] for fact in facts.steps] == list(range(1, 151))
    assert facts.steps[-1]["loss"] < 0.1 * facts.steps[0]["loss"]
    assert facts.evals[-1]["loss"] < 0.2 * facts.evals[0]["loss"] or facts.evals[-1]["loss"] < 0.1
    assert {fact["step"] for fact in facts.samples} == {0, 25, 50, 75, 100, 125, 150}
    assert facts.samples[-2]["answer"] == "The capital of France is Paris."


def test_the_facts_tell_the_models_true_figures(first_run: RunDir, demo_models: Path) -> None:
    from safetensors import safe_open

    facts = RunFacts(first_run.events).refresh()
    with safe_open(demo_models / DEMO_FOLDER / "model.safetensors", "pt") as weights:
        stored = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    with safe_open(first_run.model / "adapter_model.safetensors", "pt") as weights:
        trained = sum(weights.get_tensor(name).numel() for name in weights.keys())  # noqa: SIM118
    shape = json.loads((demo_models / DEMO_FOLDER / "config.json").read_text())
    assert facts.model["parameters"] == stored
    assert facts.model["trained"] == trained
    assert facts.model["layers"] == shape["num_hidden_layers"]
    assert facts.model["context"] == shape["max_position_embeddings"]
    assert facts.data["train"] == 135


def test_the_result_is_an_adapter_only_with_tokenizer_and_card(first_run: RunDir) -> None:
    names = {path.name for path in first_run.model.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "README.md"} <= names
    assert "model.safetensors" not in names
    assert not list(first_run.path.rglob("training_args.bin"))
    adapter = json.loads((first_run.model / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "demo/gemma-3-tiny"
    assert "150" in (first_run.model / "README.md").read_text()
    assert len(list(first_run.checkpoints.iterdir())) == 2
    assert any(first_run.tensorboard.iterdir())


def test_checkpoint_and_result_of_the_last_step_hold_the_same_adapter(first_run: RunDir) -> None:
    import torch
    from safetensors.torch import load_file

    saved = load_file(first_run.model / "adapter_model.safetensors")
    last = load_file(first_run.checkpoints / "checkpoint-150" / "adapter_model.safetensors")
    assert saved.keys() == last.keys()
    assert all(torch.equal(saved[name], last[name]) for name in saved)
    assert all(tensor.abs().sum() > 0 for tensor in saved.values())


def test_a_saved_adapter_gives_the_same_logits_and_merging_does_not_change_them(
    demo_models: Path, tmp_path: Path
) -> None:
    import torch
    from peft import get_peft_model

    from gemma_ft.train.loading import adapter_for, load_model, load_result, save_result
    from gemma_ft.train.tokenizer import load_tokenizer

    config = recipes.try_it()
    folder = demo_models / DEMO_FOLDER
    tokenizer = load_tokenizer(folder)
    untouched = logits(load_model(folder, "float32"), tokenizer)
    base = load_model(folder, "float32")
    model = get_peft_model(base, adapter_for(base, config.method))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name)
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    expected = logits(model, tokenizer)
    assert not torch.allclose(expected, untouched, atol=1e-2)
    save_result(model, tokenizer, tmp_path / "model", config.model)
    reloaded, _ = load_result(folder, tmp_path / "model", config)
    assert torch.equal(logits(reloaded, tokenizer), expected)
    with reloaded.disable_adapter():
        assert torch.equal(logits(reloaded, tokenizer), untouched)
    assert torch.allclose(logits(reloaded.merge_and_unload(), tokenizer), expected, atol=1e-4)


def test_full_fine_tuning_changes_every_weight_and_saves_a_model_of_its_own(
    demo_settings: Settings, demo_models: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    run = finish(demo_settings, config_with("none", max_steps=30, learning_rate=2e-3, eval_every=0, save_every=0))
    before = load_file(demo_models / DEMO_FOLDER / "model.safetensors")
    after = load_file(run.model / "model.safetensors")
    assert before.keys() == after.keys()
    unchanged = [name for name in before if torch.equal(before[name], after[name])]
    assert unchanged == []
    facts = RunFacts(run.events).refresh()
    assert facts.model["trained"] == facts.model["parameters"]
    assert facts.steps[-1]["loss"] < facts.steps[0]["loss"]
    assert [fact["step"] for fact in facts.evals] == [30]


def test_epochs_are_real_passes_over_the_data(demo_settings: Settings) -> None:
    run = finish(demo_settings, config_with(max_steps=None, epochs=1.0, eval_every=0, save_every=0))
    steps = RunFacts(run.events).refresh().steps
    assert steps[-1]["step"] == steps[-1]["max_steps"] == -(-135 // 16)
    assert steps[-1]["epoch"] == pytest.approx(1.0)
