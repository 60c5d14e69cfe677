"""Rows of a person's data become chat messages, or a problem with a number and a remedy.

Promises that every row is looked at, that nothing is turned into text that was not text, and that a problem names the
row (counted from 1), the column, the value and what to do. Knows the shapes `messages` (a list of {role, content})
and `prompt_completion` (two text columns). Reads no files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gemma_ft.errors import DataError

Message = dict[str, str]
Conversation = list[Message]
Row = Mapping[str, Any]
Format = Literal["messages", "prompt_completion"]

COLUMNS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
}
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "model": "assistant", "system": "system"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong with the data or the configuration, in the terms of the person who must mend it."""

    severity: Literal["error", "warning"]
    kind: str
    message: str
    fix: str
    row: int | None = None
    column: str | None = None


class BadRow(Exception):
    """A row that cannot be used; carries kind, column, message and fix for a `Problem`."""

    def __init__(self, kind: str, column: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.kind, self.column, self.message, self.fix = kind, column, message, fix


def detect_format(rows: Sequence[Row], columns: Mapping[str, str]) -> Format:
    """Return the format whose columns the first rows have. Raises `DataError` that lists the columns found."""
    found = {name for row in rows[:100] for name in row}
    for format_name, needed in COLUMNS.items():
        if all(columns.get(name, name) in found for name in needed):
            return format_name
    listed = ", ".join(sorted(found)) or "none"
    raise DataError(
        f"The columns found ({listed}) fit no known format.",
        "Name the columns `messages`, or `prompt` and `completion`, or map yours to these under `data.columns`.",
    )


def read_conversations(
    rows: Iterable[Row], format_name: Format, columns: Mapping[str, str]
) -> tuple[list[Conversation], list[Problem]]:
    """Return the usable rows as conversations, in order, and one problem for each of the others."""
    conversations: list[Conversation] = []
    problems: list[Problem] = []
    for number, row in enumerate(rows, start=1):
        try:
            conversations.append(_read_row(row, format_name, columns))
        except BadRow as bad:
            problems.append(
                Problem(
                    severity="error",
                    kind=bad.kind,
                    message=bad.message,
                    fix=bad.fix,
                    row=number,
                    column=bad.column,
                )
            )
    return conversations, problems


def _read_row(row: Row, format_name: Format, columns: Mapping[str, str]) -> Conversation:
    values = {name: _value(row, columns.get(name, name)) for name in COLUMNS[format_name]}
    if format_name == "messages":
        return _check_turns(_messages(values["messages"], columns.get("messages", "messages")))
    prompt = _text(values["prompt"], columns.get("prompt", "prompt"))
    completion = _text(values["completion"], columns.get("completion", "completion"))
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]


def _value(row: Row, column: str) -> Any:
    if column not in row:
        have = ", ".join(row) or "none"
        raise BadRow("missing_column", column, f"The column {column!r} is missing; this row has: {have}.", "Add it.")
    return row[column]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        shown = json.dumps(value, ensure_ascii=False, default=str)[:80]
        message = f"{column!r} is {type(value).__name__} ({shown}), not text."
        raise BadRow("not_text", column, message, "Write it as text in quotes.")
    if not value.strip():
        raise BadRow("empty_text", column, f"{column!r} is empty.", "Fill it in or leave the row out.")
    return value


def _messages(value: Any, column: str) -> Conversation:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        shape = f"{column!r} is {type(value).__name__}, not a list of messages."
        raise BadRow("not_messages", column, shape, 'Write [{"role": "user", "content": "..."}, ...].')
    turns = []
    for place, turn in enumerate(value, start=1):
        role = ROLES.get(str(turn.get("role")))
        if role is None:
            message = f"Message {place} has the role {turn.get('role')!r}."
            raise BadRow("unknown_role", column, message, f"Use one of: {', '.join(ROLES)}.")
        turns.append({"role": role, "content": _text(turn.get("content"), f"{column}[{place}].content")})
    return turns


def _check_turns(turns: Conversation) -> Conversation:
    """Check that user and assistant take turns, a system message at most first, and an assistant has the last word."""
    spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
    expected = ("user", "assistant")
    for place, turn in enumerate(spoken):
        if turn["role"] != expected[place % 2]:
            message = f"The roles do not alternate: {' '.join(turn['role'] for turn in turns)}."
            raise BadRow("roles", "messages", message, "Let user and assistant take turns, the user first.")
    if len(spoken) < 2 or len(spoken) % 2:
        raise BadRow("no_answer", "messages", "There is no assistant's answer at the end.", "Add the answer to learn.")
    return turns
