"""The X-ray of data: what the model will see of each row, and what of it is trained.

Promises that rows are encoded by the function that the trainer uses, with the model's own tokenizer and chat template;
and figures that say on how many rows they were measured. Needs no weights and no GPU.
"""

from __future__ import annotations

import bisect
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gemma_ft.config import LONGEST_LENGTH, RunConfig
from gemma_ft.data.prepare import Survey
from gemma_ft.data.samples import Pair, Sample
from gemma_ft.data.source import Row, plain_row
from gemma_ft.train.encode import IGNORED, Encoded, EncodedPair, batches, encode, encode_many
from gemma_ft.train.template import system_turns

MEASURED_ROWS = 10_000
MEASURED_CHARACTERS = 10_000_000
FEWEST_ROWS = 20
"""The figures are taken from so many rows, the first of those to train on; from fewer when they are very long."""
PAGED_ROWS = 1_000
"""How many of these can be looked at."""
LONGEST_SHOWN = 3_000
"""Tokens of one row that are shown."""
BINS = 30
LENGTH_STEP = 64
"""Suggested maximum lengths are multiples of this."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class XRay:
    """The figures of a data set, and the first of its rows."""

    figures: Figures
    rows: list[tuple[Row, Sample]]


def take_xray(
    config: RunConfig, found: Survey, tokenizer: Any, folder: Path, *, report: Callable[[int], None] = lambda rows: None
) -> XRay:
    """Encode the rows that a run would train on first, and measure them; `report` is told how many are done.

    Raises `ModelError` when the tokenizer has no chat template and one is needed.
    """
    began = time.monotonic()
    limit = config.training.max_length
    affordable = int(MEASURED_CHARACTERS / max(found.characters, 1.0))
    rows = found.first_rows("train", min(MEASURED_ROWS, max(affordable, FEWEST_ROWS)))
    encoded: list[Encoded | EncodedPair] = []
    for batch in batches(sample for _, sample in rows):
        encoded += encode_many(batch, tokenizer, limit)
        report(len(encoded))
    figures = {
        "rows": len(encoded),
        "of": found.expected[0],
        "max_length": limit,
        **_figures(encoded, tokenizer, limit, config.training.batch_size, _context(folder)),
        "system_turns": system_turns(tokenizer) if any(_has_system(sample) for _, sample in rows) else None,
        "seconds": round(time.monotonic() - began, 3),
    }
    return XRay(figures, rows[:PAGED_ROWS])


def show_row(row: Row, sample: Sample, tokenizer: Any, max_length: int) -> dict[str, Any]:
    """Return one row as it came and as the model sees it: `views` of (`title`, `pieces`, `cut`).

    A piece is (text, whether it is trained, whether it is a special token, ids).
    """
    encoded = encode(sample, tokenizer, max_length)
    sequences = encoded.sequences if isinstance(encoded, EncodedPair) else (encoded,)
    titles = ("Chosen answer", "Rejected answer") if isinstance(encoded, EncodedPair) else ("",)
    views = [
        {"title": title, "pieces": pieces(sequence, tokenizer), "cut": sequence.cut, "tokens": len(sequence.input_ids)}
        for title, sequence in zip(titles, sequences, strict=True)
    ]
    return {"raw": plain_row(row), "views": views}


def pieces(sequence: Encoded, tokenizer: Any) -> list[tuple[str, bool, bool, list[int]]]:
    """Return the tokens as text; tokens that are only together a character form one piece."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    found: list[tuple[str, bool, bool, list[int]]] = []
    held: list[int] = []
    for place, (token, label) in enumerate(zip(sequence.input_ids, sequence.labels, strict=True)):
        held.append(token)
        text = tokenizer.decode(held, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and len(held) < 4 and place + 1 < len(sequence.input_ids):
            continue
        found.append((text, label != IGNORED, token in special, held))
        held = []
        if len(found) == LONGEST_SHOWN:
            break
    return found


def _figures(
    encoded: Sequence[Encoded | EncodedPair], tokenizer: Any, limit: int, batch_size: int, context: int | None
) -> Figures:
    """Measure encoded rows; of a pair both sequences count."""
    per_row = [row.sequences if isinstance(row, EncodedPair) else (row,) for row in encoded]
    flat = [sequence for row in per_row for sequence in row]
    trained = [sequence.num_trained for sequence in flat]
    tokens = sum(len(sequence.input_ids) for sequence in flat)
    full = [len(sequence.input_ids) + sequence.cut for sequence in flat]
    ends = _end_of_turn_ids(tokenizer)
    first = [sequence.input_ids[:1] == [tokenizer.bos_token_id] for sequence in flat]
    once = [sequence.input_ids.count(tokenizer.bos_token_id) == 1 for sequence in flat]
    return {
        "tokens": tokens,
        "supervised_tokens": sum(trained),
        "supervised_fraction": sum(trained) / tokens if tokens else 0.0,
        "zero_supervised_rows": sum(not row.num_trained for row in encoded),
        "truncated_rows": sum(any(sequence.cut for sequence in row) for row in per_row),
        "lost_answer_tokens": sum(sequence.cut_trained for sequence in flat),
        "bos_once_rows": sum(one and begins for one, begins in zip(once, first, strict=True)),
        "end_trained_rows": sum(_end_is_trained(sequence, ends) for sequence in flat),
        "sequences": len(flat),
        "lengths": _lengths(full),
        "histogram": histogram(full),
        "suggested_max_length": suggest_length(full, context),
        "packing_gain": packing_gain([min(length, limit) for length in full], limit, batch_size),
    }


def _lengths(full: Sequence[int]) -> dict[str, float]:
    ordered = sorted(full) or [0]
    at = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in SHARES.items()}
    return {"shortest": ordered[0], "longest": ordered[-1], "mean": round(sum(ordered) / len(ordered), 1), **at}


SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def histogram(lengths: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return bars of (from, to, rows) that cover all lengths; `to` is not part of a bar."""
    if not lengths:
        return []
    width = max(1, -(-(max(lengths) + 1) // BINS))
    counts = [0] * (max(lengths) // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return [(place * width, (place + 1) * width, count) for place, count in enumerate(counts)]


def suggest_length(lengths: Sequence[int], context: int | None = None) -> int:
    """Return a maximum length that cuts no row; when a few rows (1 in 200) are more than twice as long as the others,
    one that cuts only those. Never more than the model's context.
    """
    ordered = sorted(lengths) or [LENGTH_STEP]
    usual = ordered[min(len(ordered) - 1, int(0.995 * len(ordered)))]
    wanted = usual if 2 * usual < ordered[-1] else ordered[-1]
    rounded = -(-wanted // LENGTH_STEP) * LENGTH_STEP
    return min(rounded, context or LONGEST_LENGTH, LONGEST_LENGTH)


def packing_gain(lengths: Sequence[int], limit: int, batch_size: int) -> float:
    """Return how many times fewer token places rows take when they are packed (best fit) than padded in batches."""
    if not lengths:
        return 1.0
    batches = [lengths[at : at + batch_size] for at in range(0, len(lengths), batch_size)]
    padded = sum(len(batch) * max(batch) for batch in batches)
    room: list[int] = []
    bins = 0
    for length in sorted(lengths, reverse=True):
        at = bisect.bisect_left(room, length)
        if at == len(room):
            bins += 1
            bisect.insort(room, limit - length)
        else:
            bisect.insort(room, room.pop(at) - length)
    return round(padded / (bins * limit), 2)


def _end_of_turn_ids(tokenizer: Any) -> set[int]:
    """Return the ids that end an answer in any Gemma: end of turn, and end of text."""
    known = {"<end_of_turn>", "<turn|>", tokenizer.eos_token}
    return {token for text, token in tokenizer.get_added_vocab().items() if text in known} | {tokenizer.eos_token_id}


def _end_is_trained(sequence: Encoded, ends: set[int]) -> bool:
    trained = [label for label in sequence.labels if label != IGNORED]
    return bool(trained) and trained[-1] in ends


def _has_system(sample: Sample) -> bool:
    turns = sample.prompt if isinstance(sample, Pair) else sample
    return isinstance(turns, list) and turns[0]["role"] == "system"


def _context(folder: Path) -> int | None:
    """Return the model's context in tokens, from its configuration."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    value = config.get("text_config", config).get("max_position_embeddings")
    return value if isinstance(value, int) else None
