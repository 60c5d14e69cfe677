"""Each family of Gemma, tuned in each way: what should change changes and nothing else, and what is saved is that.

A part of the pairs of a family and a method, in which each is at least once, is tried always, the rest when there is
time. Gemma 3n with its towers is only tried where timm is installed.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from gemma_families import FAMILIES, Family
from gemma_ft.config import EvaluationConfig, MethodConfig, ModelConfig, RunConfig, TrainingConfig
from gemma_ft.data.samples import Pair, Sample
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.train.tokenizer import load_tokenizer
from tiny_gemmas import tokenizer_for
from tuned_gemmas import Outcome, make_models, tune_and_compare

pytestmark = pytest.mark.train

STEPS = 10
TARGETS = {"attention": {"q_proj", "k_proj", "v_proj", "o_proj"}, "mlp": {"gate_proj", "up_proj", "down_proj"}}
TARGETS["all"] = TARGETS["attention"] | TARGETS["mlp"]
CITIES = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Peru": "Lima", "Norway": "Oslo", "Cuba": "Havana"}
WRONG = "A pear."


def turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def asked(land: str) -> list[dict[str, Any]]:
    return [turn("user", f"What is the capital of {land}?")]


SAMPLES: dict[str, list[Sample]] = {
    "sft": [[*asked(land), turn("assistant", f"It is {city}.")] for land, city in CITIES.items()],
    "dpo": [Pair(asked(land), turn("assistant", city), turn("assistant", WRONG)) for land, city in CITIES.items()],
}
TRAINED = {
    "sft": Counter({f"It is {city}.": STEPS for city in CITIES.values()}),
    "dpo": Counter({**dict.fromkeys(CITIES.values(), STEPS), WRONG: STEPS * len(CITIES)}),
}
"""The answers that are to be trained, and how often when each batch holds all rows."""
Settings = dict[str, Any]
METHODS: dict[str, tuple[Settings, Settings]] = {
    "sft full": ({"adapter": "none"}, {"learning_rate": 5e-3}),
    "sft lora": ({}, {"learning_rate": 2e-2}),
    "sft qlora": ({"adapter": "qlora"}, {"learning_rate": 2e-2}),
    "dpo full": ({"objective": "dpo", "adapter": "none"}, {"learning_rate": 2e-3}),
    "dpo lora": ({"objective": "dpo"}, {"learning_rate": 1e-2}),
    "dpo qlora": ({"objective": "dpo", "adapter": "qlora"}, {"learning_rate": 1e-2}),
}
"""What is asked of `method` and of `training`."""
ALWAYS = {
    "gemma2": ("sft lora", "sft qlora", "dpo lora"),
    "gemma3": ("sft full", "dpo full"),
    "gemma3_vision": ("sft full", "sft qlora"),
    "gemma3n": ("sft full", "sft lora"),
    "gemma3n_vision": ("sft full", "sft qlora"),
    "gemma4": tuple(METHODS),
    "gemma4_experts": ("sft full", "sft lora"),
    "gemma4_unified": ("sft qlora", "dpo full"),
}
HERE = [name for name, family in FAMILIES.items() if family.available]
MATRIX = [
    pytest.param(family, method, marks=() if method in ALWAYS[family] else pytest.mark.slow)
    for family in HERE
    for method in METHODS
]
SPECIAL = ("gemma2", "gemma3n", "gemma4")
"""Families with all kinds of attention, and with layers that share keys and values."""
SOME = [pytest.param(name, marks=() if name in SPECIAL else pytest.mark.slow) for name in HERE]
Tune = Callable[..., Outcome]


@pytest.fixture(scope="module")
def child() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def models(child: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    child.submit(make_models, folder, HERE).result(300)
    return folder


@pytest.fixture
def tuned(child: ProcessPoolExecutor, models: Path, tmp_path: Path) -> Tune:
    """A function that tunes the model of a family, all rows in each batch, and returns what came of it."""

    def tune(family: str, method: Settings, training: Settings, held_out: Sequence[Sample] = ()) -> Outcome:
        base = models / family
        given = {"max_steps": STEPS, "batch_size": len(CITIES), "max_length": 64, "warmup_fraction": 0.0}
        config = RunConfig(
            model=ModelConfig(id=str(base), precision="float32"),
            method=MethodConfig(**{"rank": 4, "alpha": 8, "dropout": 0.0, **method}),
            training=TrainingConfig(**{**given, "eval_every": 0, "save_every": 0, **training}),
            evaluation=EvaluationConfig(prompts=()),
        )
        asked = (tmp_path, config, base, SAMPLES[config.method.objective], held_out)
        return child.submit(tune_and_compare, *asked).result(300)

    return tune


def steps(found: Outcome) -> list[dict[str, Any]]:
    return RunFacts(found.run.events).refresh().steps


def losses(found: Outcome) -> list[float]:
    return [fact["loss"] for fact in steps(found)]


def check_what_changed(found: Outcome, family: Family, *parts: str) -> None:
    """Every weight of the language model and none of the towers', or every matrix of the adapter and nothing else."""
    method = found.run.config().method
    assert found.not_as_saved == set()
    if method.adapter == "none":
        towers = {name for name in found.parameters if name.startswith(family.inside_towers)}
        assert found.changed == found.parameters - towers
        assert {name.split(".")[1] for name in towers} == set(family.towers)
        return
    language = {name for name in found.linears if name.startswith(family.language)}
    layers = {name for name in language if name.rpartition(".")[2] in TARGETS[method.targets]}
    in_4_bits = {f"{name}.weight" for name in language if name.rpartition(".")[2] in TARGETS["all"]}
    assert layers
    assert found.changed == {f"{layer}.{part}" for layer in layers for part in parts}
    assert found.in_4_bits == (in_4_bits if method.adapter == "qlora" else set())


def check_what_was_learned(found: Outcome, template: str, trained: Counter[str]) -> None:
    """The answers with their end-of-turn marks, and nothing else, in sequences with one BOS each."""
    tokenizer = tokenizer_for(template)
    mark = "<turn|>" if template.startswith("gemma4") else "<end_of_turn>"
    texts = Counter(tokenizer.decode([token for token in labels if token >= 0]) for _, labels in found.sequences)
    assert texts == Counter({f"{answer}{mark}": count for answer, count in trained.items()})
    for ids, labels in found.sequences:
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert all(label in (token, -100) for token, label in zip(ids, labels, strict=True))


def check_the_tokenizer(found: Outcome, template: str) -> None:
    own, saved = tokenizer_for(template), load_tokenizer(found.run.model)
    assert saved.get_vocab() == own.get_vocab()
    assert saved.chat_template == own.chat_template
    text = own.apply_chat_template([*asked("Peru"), turn("assistant", "It is Lima.")], tokenize=False)
    assert saved(text)["input_ids"] == own(text)["input_ids"]


@pytest.mark.parametrize(("name", "method"), MATRIX)
def test_a_family_is_tuned(tuned: Tune, name: str, method: str) -> None:
    family, found = FAMILIES[name], tuned(name, *METHODS[method])
    objective, in_4_bits = method.split()[0], method.endswith("qlora")
    check_what_changed(found, family, "lora_A.default.weight", "lora_B.default.weight")
    check_what_was_learned(found, family.template, TRAINED[objective])
    check_the_tokenizer(found, family.template)
    facts = steps(found)
    if objective == "sft":
        assert facts[0]["loss"] == pytest.approx(found.loss_of_the_base, rel=0.02 if in_4_bits else 1e-5)
        assert facts[-1]["loss"] < 0.8 * facts[0]["loss"]
        assert found.loss_of_the_merged < 0.8 * found.loss_of_the_base
    else:
        assert facts[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
        assert facts[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
        assert facts[-1]["reward_margin"] > 0.5
    assert found.learned > 1
    assert found.reloaded < 1e-5
    assert found.merged < 1e-4


WAYS: dict[str, tuple[str, Settings, Settings]] = {
    "rslora": ("gemma3", {"rslora": True}, {}),
    "dora": ("gemma4", {"dora": True}, {}),
    "dora on 4 bits": ("gemma3_vision", {"dora": True, "adapter": "qlora"}, {}),
    "attention": ("gemma2", {"targets": "attention"}, {}),
    "mlp": ("gemma4_unified", {"targets": "mlp"}, {}),
    "mlp beside experts, in 4 bits": ("gemma4_experts", {"targets": "mlp", "adapter": "qlora"}, {}),
    "noise": ("gemma3n", {}, {"neftune_alpha": 5.0}),
    "noise on all weights": ("gemma4", {"adapter": "none"}, {"neftune_alpha": 5.0, "learning_rate": 5e-3}),
    "dropout": ("gemma4_unified", {"dropout": 0.2}, {}),
    "adafactor": ("gemma3n", {"adapter": "none"}, {"optimizer": "adafactor", "learning_rate": 5e-3}),
    **{f"dpo, {loss}": ("gemma4", {"objective": "dpo", "loss": loss}, {}) for loss in ("ipo", "hinge")},
    "dpo, apo_zero": ("gemma3", {"objective": "dpo", "loss": "apo_zero"}, {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_tuning_learns_and_reloads(tuned: Tune, way: str) -> None:
    name, method, training = WAYS[way]
    found = tuned(name, method, {"learning_rate": 1e-2, **training})
    parts = ["lora_A.default.weight", "lora_B.default.weight"]
    check_what_changed(found, FAMILIES[name], *parts, *["lora_magnitude_vector.default.weight"] * ("dora" in method))
    facts, objective = steps(found), method.get("objective", "sft")
    check_what_was_learned(found, FAMILIES[name].template, TRAINED[objective])
    if objective == "sft":
        assert facts[-1]["loss"] < 0.9 * facts[0]["loss"]
        noisy = abs(facts[0]["loss"] - found.loss_of_the_base) > 1e-4
        assert noisy == ("neftune_alpha" in training or method.get("adapter") == "qlora")
    else:
        assert facts[-1]["reward_margin"] > 0.5
        assert facts[-1]["loss"] < facts[0]["loss"]
    assert found.reloaded < 1e-5
    assert found.merged < 1e-4


def test_rslora_scales_by_the_root_of_the_rank(tuned: Tune) -> None:
    """What is saved says so, for any program that loads it."""
    found = tuned("gemma3", {"rslora": True, "rank": 9}, {"max_steps": 2})
    assert json.loads((found.run.model / "adapter_config.json").read_text())["use_rslora"] is True
    assert found.reloaded == 0


@pytest.mark.parametrize("name", SOME)
def test_computing_activations_twice_changes_nothing(tuned: Tune, name: str) -> None:
    once, twice = (tuned(name, {}, {"max_steps": 4, "gradient_checkpointing": how}) for how in ("off", "on"))
    assert losses(twice) == pytest.approx(losses(once), rel=1e-5)


@pytest.mark.parametrize("method", ["sft full", "sft lora", "dpo lora"])
def test_batches_that_are_added_up_learn_what_one_large_batch_does(tuned: Tune, method: str) -> None:
    settings, training = METHODS[method]
    training = {**training, "max_steps": 5, "learning_rate": 2e-3}
    large = tuned("gemma3", settings, training)
    added = tuned("gemma3", settings, {**training, "batch_size": 2, "accumulation": len(CITIES) // 2})
    assert losses(added) == pytest.approx(losses(large), rel=1e-4)


@pytest.mark.parametrize("name", SOME)
def test_packed_rows_learn_what_they_learn_apart(tuned: Tune, name: str) -> None:
    """Both ways every step sees all rows, so that their order and their company do not matter."""
    apart, packed = (tuned(name, {}, {"max_steps": 5, "learning_rate": 2e-3, "packing": how}) for how in (False, True))
    bos = tokenizer_for(FAMILIES[name].template).bos_token_id
    assert len(packed.sequences) < len(apart.sequences)
    for found in (apart, packed):
        assert sum(ids.count(bos) for ids, _ in found.sequences) == 5 * len(CITIES)
    assert losses(packed) == pytest.approx(losses(apart), rel=1e-4)
    assert packed.reloaded < 1e-5


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=() if name == "sft qlora" else pytest.mark.slow) for name in METHODS]
)
def test_measuring_on_the_way_changes_nothing(tuned: Tune, method: str) -> None:
    settings, training = METHODS[method]
    held_out = SAMPLES[settings.get("objective", "sft")][:3]
    without, measured = (tuned("gemma3", settings, {**training, "eval_every": every}, held_out) for every in (0, 3))
    assert len(RunFacts(measured.run.events).refresh().evals) == -(-STEPS // 3)
    assert losses(measured) == losses(without)
    assert measured.reloaded == without.reloaded == 0
