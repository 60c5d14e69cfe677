"""Very small Gemmas of three generations, with the chat templates that TRL ships, and a witness of what reaches them.

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

from gemma_ft.config import RunConfig
from gemma_ft.data.samples import Sample
from gemma_ft.rundir import RunDir, create_run

GEMMA_4 = ("gemma4_v2", "gemma4_v3", "gemma4", "gemma4_v4", "gemma4_v5")
"""All versions of Gemma 4's template that TRL has, oldest first."""
THOUGHTLESS = "gemma4, no thoughts"
"""Gemma 4's template as the larger models have it: the generation prompt ends with an empty block of thoughts."""
TEMPLATES = ("gemma", "gemma3", *GEMMA_4, THOUGHTLESS)
EMPTY_THOUGHTS = "<|channel>thought\n<channel|>"
CONTROL_TOKENS = ["<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"]

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"],
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
GENERATIONS = {"gemma2": "gemma", "gemma3": "gemma3", "gemma4": THOUGHTLESS}
"""The models that can be made, and their templates."""


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
    import torch
    import transformers

    tokenizer = tokenizer_for(GENERATIONS[generation])
    sizes = {**SIZES, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    if generation == "gemma2":
        model = transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**sizes))
    elif generation == "gemma3":
        model = transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**sizes))
    else:
        text = {"vocab_size_per_layer_input": len(tokenizer), "hidden_size_per_layer_input": 8, "global_head_dim": 32}
        seeing = {name: sizes[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "head_dim")}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "position_embedding_size": 64}
        config = transformers.Gemma4Config(
            text_config={**sizes, **text}, vision_config={**seeing, **heads}, audio_config=None
        )
        model = transformers.Gemma4ForConditionalGeneration(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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

    finished, _ = _tune(runs, config, base, (samples, []), record)
    assert finished
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

    finished, run = _tune(runs, config, base, (samples, samples), ask)
    return finished, run, len({str(batch) for batch in measured})


def _tune(
    runs: Path,
    config: RunConfig,
    base: Path,
    parts: tuple[Sequence[Sample], Sequence[Sample]],
    on_call: Callable[[RunDir, Any, dict[str, Any]], None],
) -> tuple[bool, RunDir]:
    """Run the trainer's code on samples; `on_call` gets the run, the model and its arguments at each call of it."""
    from peft import PeftModel
    from torch.nn.modules.module import register_module_forward_hook

    from gemma_ft.events import FactWriter
    from gemma_ft.train.control import Control
    from gemma_ft.train.encode import encode_all
    from gemma_ft.train.progress import Progress
    from gemma_ft.train.tokenizer import load_tokenizer
    from gemma_ft.train.tuning import tune

    def called(module: Any, given: Any, named: dict[str, Any], output: Any) -> None:
        if isinstance(module, PeftModel):
            on_call(run, module, named)

    run = create_run(runs, config)
    control = Control(run)
    progress = Progress(FactWriter(run.events), control)
    tokenizer = load_tokenizer(base)
    train, held_out = (encode_all(part, tokenizer, config.training.max_length)[0] for part in parts)
    hook = register_module_forward_hook(called, with_kwargs=True)
    try:
        given = {"control": control, "progress": progress, "card": lambda _: ""}
        return tune(run, config, base, tokenizer, (train, held_out), **given), run
    finally:
        hook.remove()


def _loaded_as(base: Path) -> str:
    from gemma_ft.train.loading import load_model

    return type(load_model(base, "float32")).__name__
