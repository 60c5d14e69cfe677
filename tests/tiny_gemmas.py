"""Very small Gemmas with the chat templates that TRL ships, and a witness of what reaches them.

The templates are read from the installed package when a test runs. What trains here runs in a child process: a trainer
wants the main thread and its signals, and leaves a watching thread behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gemma_families import FAMILIES, THOUGHTLESS, save_family
from gemma_ft.config import RunConfig
from gemma_ft.data.samples import Sample
from gemma_ft.rundir import RunDir, create_run

GEMMA_4 = ("gemma4_v2", "gemma4_v3", "gemma4", "gemma4_v4", "gemma4_v5")
"""All versions of Gemma 4's template that TRL has, oldest first."""
TEMPLATES = ("gemma", "gemma3", *GEMMA_4, THOUGHTLESS)
EMPTY_THOUGHTS = "<|channel>thought\n<channel|>"
CONTROL_TOKENS = ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"]

GENERATIONS = {"gemma2": "gemma", "gemma3": "gemma3", "gemma4": THOUGHTLESS}
"""A family of each generation, and the template it gets from `save_gemma`."""


def read_template(name: str) -> str:
    """Return one of TRL's templates."""
    found = find_spec("trl")
    assert found is not None
    assert found.submodule_search_locations
    folder = Path(found.submodule_search_locations[0]) / "chat_templates"
    if name != THOUGHTLESS:
        return (folder / f"{name}.jinja").read_text(encoding="utf-8")
    text = (folder / "gemma4_v4.jinja").read_text(encoding="utf-8")
    header = "{{- '<|turn>model\\n' -}}"
    assert text.count(header) == 1
    return text.replace(header, header + "{{- '<|channel>thought\\n<channel|>' -}}")


@cache
def tokenizer_for(template: str) -> Any:
    """Return the demo model's tokenizer, which takes a second to make, with another chat template."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(_tokenizer_folder())
    if template.startswith("gemma4"):
        tokenizer.add_tokens(CONTROL_TOKENS, special_tokens=True)
    tokenizer.chat_template = read_template(template)
    return tokenizer


@cache
def _tokenizer_folder() -> str:
    import tempfile

    from gemma_ft.train.demo_model import build_demo_tokenizer

    folder = tempfile.mkdtemp(prefix="tiny-gemmas-")
    build_demo_tokenizer(Path(folder))
    return folder


def save_gemma(folder: Path, generation: str) -> None:
    """Write a model of random weights and its tokenizer."""
    save_family(folder, FAMILIES[generation], tokenizer_for(GENERATIONS[generation]))


@dataclass(frozen=True)
class Seen:
    """What reached the model: ids and labels of each sequence, without padding, while training and for reference."""

    trained: list[tuple[list[int], list[int]]]
    compared: list[tuple[list[int], list[int]]]
    model: str


def watch(runs: Path, config: RunConfig, base: Path, samples: Sequence[Sample]) -> Seen:
    """Train on samples as the trainer does, and return what the model was given. Call it in a process of its own."""
    import torch

    seen = Seen([], [], model=_loaded_as(base))

    def record(run: RunDir, model: Any, named: dict[str, Any]) -> None:
        calls = seen.trained if torch.is_grad_enabled() else seen.compared
        for ids, labels, real in zip(named["input_ids"], named["labels"], named["attention_mask"].bool(), strict=True):
            calls.append((ids[real].tolist(), labels[real].tolist()))

    assert tune_run(create_run(runs, config), base, (samples, []), record)
    return seen


def stop_while_it_measures(
    runs: Path, config: RunConfig, base: Path, samples: Sequence[Sample]
) -> tuple[bool, RunDir, int]:
    """Train on samples, hold the same ones out, and ask to stop while these go through the model for the first time.

    Return whether it finished, the run, and how many batches were measured. Call it in a process of its own.
    """
    measured = []

    def ask(run: RunDir, model: Any, named: dict[str, Any]) -> None:
        if not model.training:
            run.wish("stop")
            measured.append(named["input_ids"].tolist())

    run = create_run(runs, config)
    finished = tune_run(run, base, (samples, samples), ask)
    return finished, run, len({str(batch) for batch in measured})


def tune_run(
    run: RunDir,
    base: Path,
    parts: tuple[Sequence[Sample], Sequence[Sample]],
    on_call: Callable[[RunDir, Any, dict[str, Any]], None],
) -> bool:
    """Run the trainer's code on samples, trained ones and held out ones; return whether it finished.

    `on_call` gets the run, the outermost model and its arguments at each call of it. A run that has a checkpoint is
    resumed.
    """
    import torch
    from peft import PeftModel
    from torch.nn.modules.module import register_module_forward_hook
    from transformers import GenerationMixin

    from gemma_ft.events import FactWriter
    from gemma_ft.train.control import Control
    from gemma_ft.train.encode import encode_all
    from gemma_ft.train.progress import Progress
    from gemma_ft.train.tokenizer import load_tokenizer
    from gemma_ft.train.tuning import tune

    def called(module: Any, given: Any, named: dict[str, Any], output: Any) -> None:
        if isinstance(module, outermost):
            on_call(run, module, named)

    torch.set_num_threads(1)
    config = run.config()
    outermost = GenerationMixin if config.method.adapter == "none" else PeftModel
    control = Control(run)
    progress = Progress(FactWriter(run.events), control)
    tokenizer = load_tokenizer(base)
    train, held_out = (encode_all(part, tokenizer, config.training.max_length)[0] for part in parts)
    hook = register_module_forward_hook(called, with_kwargs=True)
    try:
        given = {"control": control, "progress": progress, "card": lambda _: ""}
        return tune(run, config, base, tokenizer, (train, held_out), **given)
    finally:
        hook.remove()


def _loaded_as(base: Path) -> str:
    from gemma_ft.train.loading import load_model

    return type(load_model(base, "float32")).__name__
