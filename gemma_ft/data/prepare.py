"""From a `DataConfig` to the conversations that are trained on and those that are held out.

Promises the same split for the same rows, seed and fraction in every process, that no held-out conversation is also
trained on, and that what was left out is counted and explained. The check before a run and the trainer both call
`prepare`, so they cannot disagree.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from gemma_ft.config import DataConfig
from gemma_ft.data.formats import Conversation, Format, Problem, detect_format, read_conversations
from gemma_ft.data.sources import read_rows
from gemma_ft.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedData:
    """What a run will use of its data."""

    format: Format
    rows: int
    train: list[Conversation]
    validation: list[Conversation]
    problems: list[Problem]

    @property
    def kept(self) -> int:
        """How many rows are used."""
        return len(self.train) + len(self.validation)


def prepare(data: DataConfig) -> PreparedData:
    """Read, check, mix and split the data.

    Raises `DataError` when the source cannot be read, when no row can be used, or when rows are bad and
    `drop_bad_rows` is off; otherwise the result holds a problem for each bad row.
    """
    rows = read_rows(data)
    found = detect_format(rows, data.columns) if data.format == "auto" else data.format
    conversations, problems = read_conversations(rows, found, data.columns)
    if problems and not (data.drop_bad_rows and conversations):
        raise DataError(_describe(problems, len(rows)), "Mend these rows, or set data.drop_bad_rows to leave them out.")
    train, validation = split(conversations, data)
    return PreparedData(format=found, rows=len(rows), train=train, validation=validation, problems=problems)


def split(conversations: list[Conversation], data: DataConfig) -> tuple[list[Conversation], list[Conversation]]:
    """Return the training and the held-out conversations; equal conversations always land on the same side."""
    chosen = list(conversations)
    if data.shuffle:
        random.Random(data.seed).shuffle(chosen)
    chosen = chosen[: data.max_rows]
    wanted = round(len(chosen) * data.validation_fraction)
    if data.validation_fraction and len(chosen) > 1:
        wanted = min(max(wanted, 1), len(chosen) - 1)
    held_out = {_key(conversation) for conversation in chosen[len(chosen) - wanted :]} if wanted else set()
    train = [conversation for conversation in chosen if _key(conversation) not in held_out]
    validation = [conversation for conversation in chosen if _key(conversation) in held_out]
    if not train:
        raise DataError("All rows say the same, so none is left to train on.", "Add different rows or hold none out.")
    return train, validation


def _key(conversation: Conversation) -> str:
    return json.dumps(conversation, sort_keys=True)


def _describe(problems: list[Problem], rows: int) -> str:
    """Say the first few problems and how many there are."""
    first = "\n".join(f"Row {problem.row}: {problem.message} {problem.fix}" for problem in problems[:5])
    more = f"\n... and {len(problems) - 5} more." if len(problems) > 5 else ""
    return f"{len(problems)} of {rows} rows cannot be used.\n{first}{more}"
