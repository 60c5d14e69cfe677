"""Short rows joined to long sequences, so that nothing is computed for padding.

Promises that a packed row is learned as it would be alone: its positions count from zero, its attention never leaves it
(transformers finds the borders in the positions), and its first token is not told from the row before it. The same rows
in the same order give the same sequences. A row is never cut or divided. For training only: what is held out stays row
by row, and pairs cannot be packed.

The sequences of a batch stay rows of a batch. TRL's own collator for packing lays them end to end instead, which
FlashAttention needs; with the other kinds of attention the masks would then grow with the square of the whole batch.
Do not use it with FlashAttention, which looks for borders in batches of one sequence only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from gemma_ft.train.encode import IGNORED, Encoded


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows that are learned in one sequence."""

    rows: tuple[Encoded, ...]

    def columns(self) -> dict[str, list[int]]:
        """Return what the trainer gets: the rows end to end, and the length of each in tokens."""
        return {
            "input_ids": [token for row in self.rows for token in row.input_ids],
            "labels": [label for row in self.rows for label in row.labels],
            "seq_lengths": [len(row.input_ids) for row in self.rows],
        }


def pack(rows: Sequence[Encoded], max_length: int) -> list[Packed]:
    """Join rows to sequences of at most `max_length` tokens; a row that is longer stays alone.

    Best fit decreasing: the longest row first, each into the sequence where the least room is left for it. That needs
    at most 11/9 of the fewest possible sequences (Johnson 1974, Fast algorithms for bin packing).
    """
    sequences: list[list[Encoded]] = []
    rooms: list[tuple[int, int]] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids), reverse=True):
        length = len(row.input_ids)
        fitting = bisect_left(rooms, (length, 0))
        if fitting == len(rooms):
            sequences.append([])
            room, place = max_length, len(sequences) - 1
        else:
            room, place = rooms.pop(fitting)
        sequences[place].append(row)
        if room > length:
            insort(rooms, (room - length, place))
    return [Packed(tuple(sequence)) for sequence in sequences]


@dataclass(frozen=True, slots=True)
class PackingCollator:
    """Makes a batch of packed sequences, or of single rows, for TRL's trainer.

    The batch has `input_ids`, `labels` and `position_ids` (sequences x the longest length) and no attention mask, for
    transformers looks for borders only then, and only with `use_cache=False`. Padding counts as the end of the last
    row, where nothing looks at it: alone, its states would be zeros, and Gemma 3n's gradients would not be numbers.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch."""
        longest = max(len(example["input_ids"]) for example in examples)
        position_ids = torch.stack([_positions(example, longest) for example in examples])
        labels = _padded([example["labels"] for example in examples], IGNORED)
        return {
            "input_ids": _padded([example["input_ids"] for example in examples], self.pad_token_id),
            "labels": labels.masked_fill(position_ids == 0, IGNORED),
            "position_ids": position_ids,
        }


def _positions(example: dict[str, Any], size: int) -> torch.Tensor:
    """Return the positions of the rows in a sequence, each from zero; the last one goes on to the end."""
    lengths = example.get("seq_lengths") or [len(example["input_ids"])]
    *others, last = lengths
    return torch.cat([torch.arange(length) for length in (*others, last + size - sum(lengths))])


def _padded(values: Sequence[list[int]], padding: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in values], batch_first=True, padding_value=padding)
