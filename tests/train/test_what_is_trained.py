"""What the X-ray shows is what is trained: the ids and labels that reach real models are those that `encode` gives.

For three generations of Gemma and both objectives, a small model is trained by the trainer's own code in a process of
its own, where a hook on the model writes down what it is called with. The same hook can ask to stop at a moment that is
hard to meet from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from gemma_ft.config import EvaluationConfig, MethodConfig, ModelConfig, RunConfig, TrainingConfig
from gemma_ft.data.samples import Pair, Sample
from gemma_ft.monitor.facts import RunFacts
from gemma_ft.train.encode import EncodedPair, encode
from tiny_gemmas import GENERATIONS, Seen, save_gemma, stop_while_it_measures, tokenizer_for, watch

pytestmark = pytest.mark.train

LIMIT = 80
CLASSES = {"gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM", "gemma4": "Gemma4ForConditionalGeneration"}


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED = [turn("user", "What is the capital of France?")]
TALK = [turn("system", "Be brief."), *ASKED, turn("assistant", "Paris."), turn("user", "Sure?")]
LEARNED: list[Sample] = [
    [*ASKED, turn("assistant", "The capital of France is Paris.")],
    [*TALK, turn("assistant", "Yes.")],
    [TALK[0], TALK[1], turn("assistant", "Rome.", weight=0), TALK[3], turn("assistant", "No: Paris.")],
    "A text that is learned whole.",
    [*ASKED, turn("assistant", "It is a long answer, which is cut off. " * 12)],
    [turn("user", "The answer to this would be too late. " * 20), turn("assistant", "So nothing is learned.")],
]
PREFERRED: list[Sample] = [
    Pair(ASKED, turn("assistant", "The capital of France is Paris."), turn("assistant", "A ripe pear.")),
    Pair(TALK, turn("assistant", "Yes."), turn("assistant", "I do not know, it may be so or not.")),
    Pair(ASKED, turn("assistant", "Paris."), turn("assistant", "It is a long answer, which is cut off. " * 12)),
    Pair([turn("user", "This is too long. " * 40)], turn("assistant", "a"), turn("assistant", "b")),
]
SAMPLES = {"sft": LEARNED, "dpo": PREFERRED}


@pytest.fixture(scope="module")
def child() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module", params=list(GENERATIONS))
def model(request: pytest.FixtureRequest, child: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / request.param
    child.submit(save_gemma, folder, request.param).result(300)
    return folder


def expected(samples: list[Sample], generation: str) -> list[tuple[list[int], list[int]]]:
    """What `encode` shows of the samples that teach something, one by one."""
    rows = [encode(sample, tokenizer_for(GENERATIONS[generation]), LIMIT) for sample in samples]
    useful = [row for row in rows if row.num_trained]
    assert len(useful) == len(samples) - 1
    assert any(row.cut for row in useful)
    sequences = [found for row in useful for found in (row.sequences if isinstance(row, EncodedPair) else (row,))]
    return sorted((found.input_ids, found.labels) for found in sequences)


def config_for(model: Path, objective: str, **training: Any) -> RunConfig:
    given = {"epochs": 1, "batch_size": 2, "max_length": LIMIT, "eval_every": 0, "save_every": 0, **training}
    return RunConfig(
        model=ModelConfig(id=str(model), precision="float32"),
        method=MethodConfig(objective=objective, rank=2),  # type: ignore[arg-type]
        training=TrainingConfig(**given),
        evaluation=EvaluationConfig(prompts=()),
    )


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_the_model_is_given_what_encode_shows_and_nothing_else(
    child: ProcessPoolExecutor, model: Path, objective: str, tmp_path: Path
) -> None:
    asked = (tmp_path, config_for(model, objective), model, SAMPLES[objective])
    seen: Seen = child.submit(watch, *asked).result(300)
    wanted = expected(SAMPLES[objective], model.name)
    assert seen.model == CLASSES[model.name]
    assert sorted(seen.trained) == wanted
    assert sorted(seen.compared) == (wanted if objective == "dpo" else [])


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_a_stop_in_the_middle_of_an_evaluation_is_obeyed_there_and_saves(
    child: ProcessPoolExecutor, model: Path, objective: str, tmp_path: Path
) -> None:
    config = config_for(model, objective, eval_every=1, batch_size=1)
    asked = (tmp_path, config, model, SAMPLES[objective])
    finished, run, batches = child.submit(stop_while_it_measures, *asked).result(300)
    assert (finished, batches) == (False, 1)
    facts = RunFacts(run.events).refresh()
    assert ([fact["step"] for fact in facts.steps], facts.evals) == ([1], [])
    assert [path.name for path in run.checkpoints.iterdir()] == ["checkpoint-1"]
    assert not run.model.exists()
