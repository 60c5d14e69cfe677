"""A conversation as the model will see it: token ids, and for each whether it is trained.

Promises that what is trained is exactly the assistant's words and the end-of-turn mark after them; that the boundary
lies where it will lie when the model answers, because the text before an answer is tokenised by itself; and that
there is one BOS, the one the chat template writes. Needs a tokenizer with a chat template; imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gemma_ft.data.formats import Conversation
from gemma_ft.errors import DataError, ModelError

IGNORED = -100
"""The label of a token that is not trained; the value that PyTorch's cross entropy skips."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row for the model: ids and labels of equal length, and how many tokens were cut off."""

    input_ids: list[int]
    labels: list[int]
    cut: int = 0

    @property
    def num_trained(self) -> int:
        """How many tokens are trained."""
        return sum(label != IGNORED for label in self.labels)


def encode(conversation: Conversation, tokenizer: Any, max_length: int) -> Encoded:
    """Return the ids and labels of one conversation, cut to `max_length` tokens.

    Raises `ModelError` when the tokenizer has no chat template, or one that rewrites what was said before.
    """
    ids: list[int] = []
    labels: list[int] = []
    for text, trained in _segments(conversation, tokenizer):
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        labels += piece if trained else [IGNORED] * len(piece)
    return Encoded(ids[:max_length], labels[:max_length], cut=max(0, len(ids) - max_length))


def encode_prompt(conversation: Conversation, tokenizer: Any) -> list[int]:
    """Return the ids after which the model speaks."""
    text = render(conversation, tokenizer, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_all(conversations: Iterable[Conversation], tokenizer: Any, max_length: int) -> tuple[list[Encoded], int]:
    """Return the rows that teach something, and how many had to be left out because their answer was cut off whole.

    Raises `DataError` when nothing is left.
    """
    encoded = [encode(conversation, tokenizer, max_length) for conversation in conversations]
    useful = [row for row in encoded if row.num_trained]
    if encoded and not useful:
        raise DataError(
            f"In every row the answer begins after token {max_length}, so nothing could be learned.",
            "Raise training.max_length or shorten the questions.",
        )
    return useful, len(encoded) - len(useful)


def render(conversation: Conversation, tokenizer: Any, *, add_generation_prompt: bool = False) -> str:
    """Return the text that the model's chat template makes of a conversation."""
    if not tokenizer.chat_template:
        raise ModelError(
            "This model has no chat template, so it is not known how a question and its answer are written for it.",
            "Choose the instruction-tuned variant of this model (its name ends in -it).",
        )
    text = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=add_generation_prompt)
    return str(text)


def _segments(conversation: Conversation, tokenizer: Any) -> list[tuple[str, bool]]:
    """Split the rendered text into pieces, each wholly trained or wholly not."""
    whole = render(conversation, tokenizer)
    pieces: list[tuple[str, bool]] = []
    at = 0
    for begin, end in _answers(conversation, tokenizer, whole):
        pieces += [(whole[at:begin], False), (whole[begin:end], True)]
        at = end
    return [*pieces, (whole[at:], False)] if at < len(whole) else pieces


def _answers(conversation: Sequence[Any], tokenizer: Any, whole: str) -> list[tuple[int, int]]:
    """Return where each of the assistant's turns begins and ends in the text, the end-of-turn mark included."""
    spans = []
    for place, turn in enumerate(conversation):
        if turn["role"] != "assistant":
            continue
        before = render(list(conversation[:place]), tokenizer, add_generation_prompt=True)
        after = render(list(conversation[: place + 1]), tokenizer)
        if not (whole.startswith(before) and whole.startswith(after) and len(after) > len(before)):
            raise ModelError(
                "This model's chat template rewrites earlier turns, so the trained words cannot be told apart.",
                "Use conversations with one question and one answer, or another model.",
            )
        spans.append((len(before), len(after.rstrip())))
    return spans
