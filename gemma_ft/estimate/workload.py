"""What a run has to work through: how many rows, and how long they are once they are cut to the maximum length.

Promises figures taken from an X-ray where there is one, and cautious ones where there is none; reads no data itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gemma_ft.config import RunConfig

USUAL_FILL = 0.5
"""Share of the maximum length that rows are taken to have when nobody has looked at them."""
USUAL_SUPERVISED = 0.5
PACKED_FILL = 0.93
"""Share of packed sequences that is not padding, with best fit."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows to train on, and tokens of each sequence after cutting; `measured` says that somebody looked.

    A row of supervised tuning is one sequence, a pair for DPO is two. `longest` is that of the longest sequence,
    `mean_tokens` and `mean_supervised` (the tokens that are learned) are means over sequences.
    """

    train_rows: int
    longest: int
    mean_tokens: float
    mean_supervised: float
    measured: bool

    @classmethod
    def from_xray(cls, figures: Mapping[str, Any], config: RunConfig) -> Self:
        """Take the figures of an X-ray (`engine/xray.py`), also when the config's maximum length is another one now."""
        sequences = max(1, figures.get("sequences") or figures["rows"])
        limit, looked_with = config.training.max_length, figures["max_length"]
        longest = min(int(figures["lengths"]["longest"]), limit)
        cut = figures["tokens"] / sequences
        full = max(cut, float(figures["lengths"]["mean"]))
        mean = cut if limit == looked_with else min(full, limit)
        share = figures["supervised_tokens"] / max(1, figures["tokens"])
        return cls(
            train_rows=max(1, int(figures["of"])),
            longest=max(1, longest),
            mean_tokens=max(1.0, min(mean, longest)),
            mean_supervised=mean * share,
            measured=True,
        )

    @classmethod
    def assumed(cls, config: RunConfig, train_rows: int) -> Self:
        """Suppose that some row is as long as allowed, and that the others are half as long."""
        limit = config.training.max_length
        mean = limit * USUAL_FILL
        return cls(max(1, train_rows), limit, mean, mean * USUAL_SUPERVISED, measured=False)

    def cut_to(self, max_length: int) -> Workload:
        """Return the same rows under a shorter maximum length."""
        if max_length >= self.longest:
            return self
        mean = min(self.mean_tokens, max_length)
        supervised = self.mean_supervised * mean / self.mean_tokens
        return Workload(self.train_rows, max_length, mean, supervised, self.measured)


def sequences_per_row(config: RunConfig) -> int:
    """Return how many sequences go through the model for one row."""
    return 2 if config.method.objective == "dpo" else 1


def sequences(config: RunConfig, workload: Workload) -> int:
    """Return how many batch places an epoch has: rows, or packed sequences."""
    if not config.training.packing:
        return workload.train_rows
    length = max(config.training.max_length, workload.longest)
    tokens = workload.train_rows * workload.mean_tokens
    return max(1, min(workload.train_rows, -(-int(tokens) // max(1, int(length * PACKED_FILL)))))


def longest_sequence(config: RunConfig, workload: Workload) -> int:
    """Return the tokens of the longest sequence that a batch can hold."""
    return max(workload.longest, config.training.max_length) if config.training.packing else workload.longest


def padded_mean(config: RunConfig, workload: Workload) -> float:
    """Return the mean tokens of a place in a batch, padding included: batches are as long as their longest row.

    Of n rows with lengths between 0 and L, spread like a triangle around the mean, the longest is expected about
    L - (L - mean) / (1 + (n - 1) / 2) long: the mean for one row, close to L for many.
    """
    if config.training.packing:
        return float(longest_sequence(config, workload))
    rows = config.training.batch_size * sequences_per_row(config)
    return workload.longest - (workload.longest - workload.mean_tokens) / (1 + (rows - 1) / 2)
