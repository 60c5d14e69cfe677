"""Builds the demo model: a very small, real Gemma 3 language model.

Promises: the folder is an ordinary transformers model folder (weights, tokenizer, chat
template) of one to two million parameters that speaks the Gemma chat format, made without
any download from the bundled text only. The same seed gives the same weights on one machine
with the same libraries and thread count. The caller's random state is left as it was. Nothing
is written before the training has ended, so an exception from ``report`` leaves no files.

Does not promise: a useful model. It says short simple sentences and knows no capitals, which
is what the demo fine-tuning then teaches. It does not write atomically: the caller passes a
temporary folder and renames it. Do not call it from several threads at once: the random
state that it borrows is shared by the process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import Gemma3ForCausalLM, PreTrainedTokenizerFast

Message = dict[str, str]

DEFAULT_STEPS = 350
VOCABULARY = 2048
CONTEXT = 1024
BATCH = 32
LENGTH_STEP = 8
PEAK_RATE = 4e-3
WARMUP_SHARE = 0.08
REPORT_EVERY = 5
IGNORED_LABEL = -100

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
START, END = "<start_of_turn>", "<end_of_turn>"
PAD_ID = 0
START_ID = 105  # Gemma 3 has <start_of_turn> at 105 and <end_of_turn> at 106

CHAT_TEMPLATE = """\
{%- macro text_of(content) -%}
    {%- if content is string -%}
        {{- content | trim -}}
    {%- else -%}
        {%- for part in content if part.type == 'text' -%}
            {{- part.text | trim -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(preamble='', turns=messages) -%}
{%- if messages and messages[0].role == 'system' -%}
    {%- set ns.preamble = text_of(messages[0].content) ~ '\\n\\n' -%}
    {%- set ns.turns = messages[1:] -%}
{%- endif -%}
{{- bos_token -}}
{%- for turn in ns.turns -%}
    {%- set wanted = 'user' if loop.index0 is even else 'assistant' -%}
    {%- if turn.role != wanted -%}
        {{- raise_exception('Roles must alternate: user, assistant, user, and so on.') -}}
    {%- endif -%}
    {{- '<start_of_turn>' ~ ('user' if wanted == 'user' else 'model') ~ '\\n' -}}
    {%- if loop.first -%}
        {{- ns.preamble -}}
    {%- endif -%}
    {{- text_of(turn.content) ~ '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model\\n' -}}
{%- endif -%}
"""


def _ignore(done: int, total: int) -> None:
    """The default ``report``: says nothing."""


def build_demo_model(
    folder: Path,
    *,
    seed: int = 0,
    report: Callable[[int, int], None] = _ignore,
    steps: int = DEFAULT_STEPS,
) -> None:
    """Make the tokenizer, pretrain the model and write both to ``folder``.

    ``report(done, total)`` is called before the first step, every few steps and after the last
    one, always before anything is written; it may raise to cancel.
    """
    import torch

    report(0, steps)
    documents = _documents()
    tokenizer = _train_tokenizer(documents)
    batches = _batches(_rows(documents, tokenizer), seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _new_model(len(tokenizer))
        _pretrain(model, batches, steps=steps, report=report)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_demo_tokenizer(folder: Path) -> None:
    """Write the demo model's tokenizer alone, which takes about a second; the same that `build_demo_model` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    _train_tokenizer(_documents()).save_pretrained(folder)


def _bundled(name: str) -> str:
    return files("gemma_ft.data").joinpath("bundled", name).read_text(encoding="utf-8")


def _documents() -> list[str | list[Message]]:
    """The pretraining text: plain paragraphs, and conversations from its Q:/A: blocks."""
    documents: list[str | list[Message]] = []
    for block in _bundled("pretraining.txt").strip().split("\n\n"):
        lines = block.split("\n")
        documents.append([_turn(line) for line in lines] if block.startswith("Q: ") else block)
    return documents


def _turn(line: str) -> Message:
    role = {"Q": "user", "A": "assistant"}[line[0]]
    return {"role": role, "content": line[3:]}


def _tokenizer_text(documents: list[str | list[Message]]) -> Iterator[str]:
    """Text for the vocabulary: the documents and the capitals rows, without special tokens."""
    rows = [json.loads(line)["messages"] for line in _bundled("capitals.jsonl").splitlines()]
    for document in [*documents, *rows]:
        if isinstance(document, str):
            yield document
            continue
        for turn in document:
            yield ("user\n" if turn["role"] == "user" else "model\n") + turn["content"]


def _special_tokens() -> list[str]:
    """The special tokens in the order of Gemma's ids; fillers keep the two turn marks in place."""
    first = [PAD, EOS, BOS, UNK, "<mask>"]
    fillers = [f"<unused{i}>" for i in range(START_ID - len(first))]
    return [*first, *fillers, START, END]


def _train_tokenizer(documents: list[str | list[Message]]) -> PreTrainedTokenizerFast:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    special = _special_tokens()
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            # A token never crosses a newline, so a prompt's tokens stay a prefix of the whole.
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    core.train_from_iterator(_tokenizer_text(documents), trainer)
    bos = (BOS, special.index(BOS))
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[bos]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _rows(documents: list[str | list[Message]], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Each document as token ids: paragraphs end in <eos>, conversations as the template has it."""
    rows: list[list[int]] = []
    for document in documents:
        if isinstance(document, str):
            rows.append([*tokenizer.encode(document), _special_tokens().index(EOS)])
        else:
            text = str(tokenizer.apply_chat_template(document, tokenize=False))
            rows.append(tokenizer.encode(text, add_special_tokens=False))
    return rows


def _batches(rows: list[list[int]], seed: int) -> Iterator[list[list[int]]]:
    """Batches without end. Rows of like length go together, so that little padding is computed."""
    import torch

    chooser = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=chooser).tolist()
        order.sort(key=lambda i: len(rows[i]) // LENGTH_STEP)
        groups = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        for g in torch.randperm(len(groups), generator=chooser).tolist():
            yield [rows[i] for i in groups[g]]


def _new_model(vocabulary: int) -> Gemma3ForCausalLM:
    """Random weights in Gemma's architecture; most layers local and the last one global."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    special = _special_tokens()
    config = Gemma3TextConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        sliding_window=256,
        max_position_embeddings=CONTEXT,
        initializer_range=0.05,
        tie_word_embeddings=True,
        pad_token_id=special.index(PAD),
        eos_token_id=special.index(EOS),
        bos_token_id=special.index(BOS),
        dtype=torch.float32,
    )
    untyped: Any = Gemma3ForCausalLM(config)
    model: Gemma3ForCausalLM = untyped.float()
    model.generation_config.eos_token_id = [special.index(EOS), special.index(END)]
    return model


def _pretrain(
    model: Gemma3ForCausalLM,
    batches: Iterator[list[list[int]]],
    *,
    steps: int,
    report: Callable[[int, int], None],
) -> None:
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    model.train()
    with torch.enable_grad():
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = PEAK_RATE * _rate_share(step, steps)
            _one_step(model, optimiser, next(batches))
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
                report(step + 1, steps)
    model.train(False)


def _one_step(model: Gemma3ForCausalLM, optimiser: torch.optim.Optimizer, batch: list[list[int]]) -> None:
    import torch

    width = max(len(row) for row in batch)
    # Padding is on the right, where the causal mask hides it; only the loss has to skip it.
    ids = torch.tensor([row + [PAD_ID] * (width - len(row)) for row in batch])
    labels = ids.masked_fill(ids == PAD_ID, IGNORED_LABEL)
    loss: Any = model(input_ids=ids, labels=labels, use_cache=False).loss
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def _rate_share(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a tenth of the peak."""
    warmup = max(1, round(steps * WARMUP_SHARE))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
