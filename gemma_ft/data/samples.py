"""One row as it is trained on: a conversation, a plain text, or a pair of answers of which one is better.

These are the only three kinds of value that leave this layer; formats turn rows into them, and `train/encode.py` turns
them into tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

Message: TypeAlias = dict[str, Any]
"""`role` (system, user or assistant) and `content` (text); `weight` 0 marks an assistant's turn not to be learned."""
Conversation: TypeAlias = list[Message]
Objective = Literal["sft", "dpo"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt that ends with the user's turn, and two answers to it, each one assistant's turn."""

    prompt: Conversation
    chosen: Message
    rejected: Message


Sample: TypeAlias = Conversation | str | Pair
"""A conversation; a text that is learned whole; or a pair."""


def digest(sample: Sample) -> int:
    """Return a number of 64 bits that equal samples share, in every process."""
    plain = [sample.prompt, sample.chosen, sample.rejected] if isinstance(sample, Pair) else sample
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def num_characters(sample: Sample) -> int:
    """Return how long a sample is."""
    if isinstance(sample, str):
        return len(sample)
    turns = [*sample.prompt, sample.chosen, sample.rejected] if isinstance(sample, Pair) else sample
    return sum(len(turn["content"]) for turn in turns)
