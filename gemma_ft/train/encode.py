"""A sample as the model will see it: token ids, and for each whether it is trained.

The one function that makes data into tokens, for the training and for the X-ray that shows it. Promises that:

* of a conversation exactly the assistant's words and the end-of-turn mark after them are trained; the boundary lies
  where it will lie when the model answers, because the text before an answer is tokenised by itself (`template.py`
  says what that text is);
* of a text everything is trained, the EOS at its end included. It needs no chat template;
* of a pair both answers, with their end-of-turn marks, follow the same generation prompt;
* each sequence begins with exactly one BOS. It is never trained: nothing comes before it from which it could be told,
  so its label has no part in any loss, and counting it would only make the figures wrong.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from gemma_ft.data.samples import Conversation, Pair, Sample, num_characters
from gemma_ft.errors import DataError
from gemma_ft.train.template import Piece, conversation_pieces, pair_pieces, render

IGNORED = -100
"""The label of a token that is not trained; the value that PyTorch's cross entropy skips."""
Report: TypeAlias = Callable[[int, int], None]
AT_ONCE = 1000
CHARACTERS_AT_ONCE = 1_000_000
"""How many samples, and characters, are tokenised at once: the tokenizer needs some 100 bytes for each character."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sequence for the model: ids and labels of equal length.

    `cut` is how many tokens were cut off its end, `cut_trained` how many of them would have been trained.
    """

    input_ids: list[int]
    labels: list[int]
    cut: int = 0
    cut_trained: int = 0

    @property
    def num_trained(self) -> int:
        """How many tokens are trained."""
        return _trained(self.labels)

    def columns(self) -> dict[str, list[int]]:
        """Return what the trainer gets."""
        return {"input_ids": self.input_ids, "labels": self.labels}


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """The ids of a prompt, and the two sequences that begin with it: the better answer's and the worse one's."""

    prompt_ids: list[int]
    chosen: Encoded
    rejected: Encoded

    @property
    def sequences(self) -> tuple[Encoded, Encoded]:
        """The better and the worse sequence, each as DPO sees it: the prompt, not trained, and the answer."""
        return self.chosen, self.rejected

    @property
    def chosen_ids(self) -> list[int]:
        """The ids of the better answer."""
        return self.chosen.input_ids[len(self.prompt_ids) :]

    @property
    def rejected_ids(self) -> list[int]:
        """The ids of the worse answer."""
        return self.rejected.input_ids[len(self.prompt_ids) :]

    @property
    def cut(self) -> int:
        """How many tokens of the two sequences were cut off."""
        return self.chosen.cut + self.rejected.cut

    @property
    def cut_trained(self) -> int:
        """How many of these would have been trained."""
        return self.chosen.cut_trained + self.rejected.cut_trained

    @property
    def num_trained(self) -> int:
        """How many tokens are trained: none when both answers are the same, as far as they were not cut off."""
        same = self.chosen.input_ids == self.rejected.input_ids
        return 0 if same else self.chosen.num_trained + self.rejected.num_trained

    def columns(self) -> dict[str, list[int]]:
        """Return what the trainer gets."""
        return {"prompt_ids": self.prompt_ids, "chosen_ids": self.chosen_ids, "rejected_ids": self.rejected_ids}


Row: TypeAlias = Encoded | EncodedPair


def encode(sample: Sample, tokenizer: Any, max_length: int) -> Row:
    """Return a conversation or a text as one sequence, a pair as two; each is cut to `max_length` tokens.

    Raises `ModelError` when a chat template is needed and there is none, or when it rewrites what was said before, and
    `DataError` when it refuses the conversation.
    """
    return encode_many([sample], tokenizer, max_length)[0]


def encode_all(
    samples: Sequence[Sample], tokenizer: Any, max_length: int, report: Report | None = None
) -> tuple[list[Row], int]:
    """Return the rows that teach something, and how many do not, because what would be learned was cut off.

    `report` is told how many rows are done, of how many, once for each percent at most. Raises `DataError` when nothing
    is left, and what `encode` raises.
    """
    encoded: list[Row] = []
    reported = 0
    for batch in batches(samples):
        encoded += encode_many(batch, tokenizer, max_length)
        if report is not None and 100 * len(encoded) // len(samples) > reported:
            reported = 100 * len(encoded) // len(samples)
            report(len(encoded), len(samples))
    useful = [row for row in encoded if row.num_trained]
    if encoded and not useful:
        what = (
            "the two answers are the same up to" if isinstance(encoded[0], EncodedPair) else "the answer begins after"
        )
        raise DataError(
            f"In every row {what} token {max_length}, so nothing could be learned.",
            "Raise training.max_length or shorten the questions.",
        )
    return useful, len(encoded) - len(useful)


def encode_prompt(conversation: Conversation, tokenizer: Any) -> list[int]:
    """Return the ids after which the model speaks."""
    return _tokenise([render(conversation, tokenizer, add_generation_prompt=True)], tokenizer)[0]


def batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Yield the samples in order, as many at a time as `encode_many` should be given."""
    batch: list[Sample] = []
    characters = 0
    for sample in samples:
        batch.append(sample)
        characters += num_characters(sample)
        if len(batch) == AT_ONCE or characters > CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encode_many(samples: Sequence[Sample], tokenizer: Any, max_length: int) -> list[Row]:
    """Return what `encode` returns of each sample; one call of the tokenizer for all is several times faster."""
    pieces = [_pieces(sample, tokenizer) for sample in samples]
    ids = iter(_tokenise([text for row in pieces for text, _ in row], tokenizer))
    rows: list[Row] = []
    for sample, row in zip(samples, pieces, strict=True):
        parts = [(next(ids), trained) for _, trained in row]
        if isinstance(sample, Pair):
            prompt, chosen, rejected = parts
            sequences = (_sequence([prompt, answer], max_length) for answer in (chosen, rejected))
            rows.append(EncodedPair(prompt[0][:max_length], *sequences))
        elif isinstance(sample, str):
            rows.append(_sequence(_between_bos_and_eos(parts[0][0], tokenizer), max_length))
        else:
            rows.append(_sequence(parts, max_length))
    return rows


def _pieces(sample: Sample, tokenizer: Any) -> list[Piece]:
    if isinstance(sample, str):
        return [(sample, True)]
    if isinstance(sample, Pair):
        prompt, chosen, rejected = pair_pieces(sample, tokenizer)
        return [(prompt, False), (chosen, True), (rejected, True)]
    return conversation_pieces(sample, tokenizer)


def _tokenise(texts: list[str], tokenizer: Any) -> list[list[int]]:
    found = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return list(found["input_ids"])


def _between_bos_and_eos(ids: list[int], tokenizer: Any) -> list[tuple[list[int], bool]]:
    """Return the parts of a text: one BOS, also when it begins with some; the words; one EOS."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    begin = next((place for place, token in enumerate(ids) if token != bos), len(ids))
    words = ids[begin:-1] if ids[-1:] == [eos] else ids[begin:]
    return [([] if bos is None else [bos], False), ([*words, *([] if eos is None else [eos])], True)]


def _sequence(parts: Sequence[tuple[list[int], bool]], max_length: int) -> Encoded:
    ids = [token for piece, _ in parts for token in piece]
    labels = [token if trained else IGNORED for piece, trained in parts for token in piece]
    return Encoded(
        ids[:max_length],
        labels[:max_length],
        cut=max(0, len(ids) - max_length),
        cut_trained=_trained(labels[max_length:]),
    )


def _trained(labels: Sequence[int]) -> int:
    return sum(label != IGNORED for label in labels)
