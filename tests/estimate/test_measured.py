"""The honesty test: estimates of memory against what training steps of small Gemmas really took.

No coefficient was fitted to these models: they were counted on others (docs/estimator.md). The tensors of all cases are
measured in one child process, exactly; the resident memory of some in a process of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from estimate.shapes import config
from gemma_ft.config import RunConfig
from gemma_ft.estimate.memory import Memory, estimate_memory
from gemma_ft.estimate.workload import Workload
from gemma_ft.hardware import Machine
from gemma_ft.jobs.spawn import own_environment
from gemma_ft.shape import LinearGroup, ModelShape

ROOT = Path(__file__).resolve().parents[2]
PROCESSOR = Machine(name="here", gpus=(), cores=2, memory=2**36, memory_free=2**36, disk_free=2**40)
CLOSE = 0.15
EXACT = ("weights", "adapter", "gradients", "optimizer")


@dataclass(frozen=True)
class Case:
    """A model, how it is tuned, and the tokens of each row, all and learned."""

    model: dict[str, Any]
    config: RunConfig
    length: int = 256
    supervised: int = 64

    def asked(self) -> dict[str, Any]:
        plain = {"model": self.model, "config": self.config.model_dump(mode="json")}
        return {**plain, "length": self.length, "supervised": self.supervised}


def gemma(kind: str = "gemma3_text", **sizes: Any) -> dict[str, Any]:
    """Return the configuration of a small Gemma, half of whose layers slide."""
    usual = {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 8192,
        "sliding_window": 128,
        "max_position_embeddings": 4096,
    }
    found = {"model_type": kind, **usual, **sizes}
    layers = range(found["num_hidden_layers"])
    return {**found, "layer_types": [("sliding_attention", "full_attention")[at % 2] for at in layers]}


def tuned(adapter: str = "lora", **knobs: Any) -> RunConfig:
    return config(**{"adapter": adapter, "batch_size": 2, "gradient_checkpointing": "off", **knobs})


WITH_LAYER_TABLES = gemma(
    "gemma4_text",
    hidden_size_per_layer_input=32,
    vocab_size_per_layer_input=8192,
    global_head_dim=64,
    num_kv_shared_layers=0,
)
PLAIN_4 = {**WITH_LAYER_TABLES, "hidden_size_per_layer_input": 0}
WIDE = {"hidden_size": 640, "intermediate_size": 2048, "num_key_value_heads": 1, "head_dim": 256}
CASES = {
    "LoRA": Case(gemma(), tuned()),
    "LoRA, checkpointing": Case(gemma(num_hidden_layers=8), tuned(gradient_checkpointing="on")),
    "LoRA without dropout, attention": Case(gemma(), tuned(dropout=0.0, targets="attention")),
    "LoRA on the MLP, rank 64": Case(gemma(), tuned(targets="mlp", rank=64)),
    "LoRA, bfloat16": Case(gemma(), tuned(precision="bfloat16")),
    "LoRA, wide": Case(gemma(**WIDE), tuned(batch_size=1)),
    "LoRA, 262,144 words": Case(gemma(vocab_size=262144), tuned(batch_size=1), supervised=128),
    "DoRA": Case(gemma(), tuned(dora=True)),
    "QLoRA": Case(gemma(**WIDE), tuned("qlora"), length=128),
    "full": Case(gemma(), tuned("none")),
    "full, checkpointing": Case(gemma(num_hidden_layers=8), tuned("none", gradient_checkpointing="on")),
    "full, accumulation": Case(gemma(), tuned("none", accumulation=2)),
    "full, Adafactor": Case(gemma(), tuned("none", optimizer="adafactor")),
    "full, bfloat16": Case(gemma(), tuned("none", precision="bfloat16")),
    "Gemma 2, LoRA": Case(gemma("gemma2"), tuned()),
    "Gemma 2, full": Case(gemma("gemma2"), tuned("none")),
    "Gemma 4, LoRA": Case(PLAIN_4, tuned()),
    "Gemma 4 with tables, LoRA": Case(WITH_LAYER_TABLES, tuned()),
    "Gemma 4 with tables, full": Case(WITH_LAYER_TABLES, tuned("none")),
    "DPO, LoRA": Case(gemma(), tuned(objective="dpo"), length=128),
    "DPO, full": Case(gemma(), tuned("none", objective="dpo", batch_size=1)),
}


def measure(cases: list[Case]) -> Iterator[dict[str, Any]]:
    """Yield what was measured for each, from one child process."""
    yield from run("measuring.py", [case.asked() for case in cases])


def run(program: str, asked: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the answers of a program of this folder."""
    here = Path(__file__).with_name(program)
    environment = {**own_environment(), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, str(here), json.dumps(asked)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        if line.startswith('{"'):
            yield json.loads(line)


def shape_of(figures: dict[str, Any]) -> ModelShape:
    groups = {name: LinearGroup(**figures[name]) for name in ("attention", "mlp")}
    return ModelShape(**{**figures, **groups, "modalities": tuple(figures["modalities"])})


def estimate(case: Case, found: dict[str, Any]) -> Memory:
    shape = shape_of(found["shape"])
    work = Workload(100, case.length, case.length, case.supervised, measured=True)
    return estimate_memory(case.config, shape, work, PROCESSOR)


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Any]]:
    return dict(zip(CASES, measure(list(CASES.values())), strict=True))


@pytest.mark.train
@pytest.mark.parametrize("name", CASES)
def test_the_tensors_are_as_many_bytes_as_estimated(name: str, measured: dict[str, dict[str, Any]]) -> None:
    found, memory = measured[name], estimate(CASES[name], measured[name])
    terms = {term.name: term for term in memory.terms}
    for part in EXACT:
        said = terms[part].low if part in terms else 0
        tables = (part == "weights" and "QLoRA" in name) or (part == "optimizer" and "Adafactor" in name)
        assert said == (pytest.approx(found[part], rel=0.01) if tables else found[part]), part
    tensors = memory.likely - (terms["runtime"].low + terms["runtime"].high) // 2
    print(f"{name:32} {found['peak'] / 2**20:6.0f} MiB, {100 * (tensors / found['peak'] - 1):+5.1f} %")
    assert tensors == pytest.approx(found["peak"], rel=CLOSE)


THROUGH_THE_TRAINER = {
    "LoRA": tuned(max_steps=1),
    "LoRA, attention, bfloat16": tuned(max_steps=1, targets="attention", precision="bfloat16"),
    "DoRA": tuned(max_steps=1, dora=True),
    "an odd rank": tuned(max_steps=1, rank=3),
    "full": tuned("none", max_steps=1),
    "full, bfloat16": tuned("none", max_steps=1, precision="bfloat16"),
}


@pytest.mark.train
def test_the_trainer_keeps_exactly_what_is_estimated() -> None:
    """The trainer of the app, not the steps of this test, decides on formats and on what is trained."""
    found = run("real_trainer.py", [each.model_dump(mode="json") for each in THROUGH_THE_TRAINER.values()])
    for (name, given), kept in zip(THROUGH_THE_TRAINER.items(), found, strict=True):
        work = Workload(4, 64, 32.0, 8.0, measured=True)
        terms = {term.name: term.low for term in estimate_memory(given, shape_of(kept["shape"]), work, PROCESSOR).terms}
        assert {part: terms.get(part, 0) for part in EXACT} == {part: kept[part] for part in EXACT}, name


RESIDENT = {
    "LoRA, long": Case(gemma(num_hidden_layers=6, vocab_size=32768), tuned(), length=768, supervised=256),
    "LoRA, wide and long, checkpointing": Case(
        gemma(**WIDE, num_hidden_layers=6, vocab_size=65536), tuned(gradient_checkpointing="on"), length=768
    ),
    "full, long": Case(gemma(num_hidden_layers=6, vocab_size=32768), tuned("none"), length=768, supervised=256),
    "Gemma 2, LoRA, long": Case(gemma("gemma2", vocab_size=32768), tuned(), length=512),
}


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.parametrize("name", RESIDENT)
def test_the_resident_memory_is_as_estimated(name: str) -> None:
    (found,) = measure([RESIDENT[name]])
    memory = estimate(RESIDENT[name], found)
    error = 100 * (memory.likely / found["peak_rss"] - 1)
    print(f"{name:36} {found['peak_rss'] / 2**20:6.0f} MiB, {error:+5.1f} %, tensors {found['peak'] / 2**20:.0f} MiB")
    assert memory.likely == pytest.approx(found["peak_rss"], rel=CLOSE)
