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
    transformers looks for borders only then. A token of padding is a row of its own at position zero.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch."""
        ids = [torch.tensor(example["input_ids"]) for example in examples]
        positions = [_positions(example.get("seq_lengths") or [len(example["input_ids"])]) for example in examples]
        labels = [
            torch.tensor(example["labels"]).masked_fill(at == 0, IGNORED)
            for example, at in zip(examples, positions, strict=True)
        ]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "position_ids": pad_sequence(positions, batch_first=True, padding_value=0),
        }


def _positions(lengths: Sequence[int]) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])
