"""One row becomes one sample, by the rules of its format.

Promises that nothing is added to what the row says and nothing left out, except that an Alpaca `input` and a `context`
stand in front of or behind the question after a blank line. Raises `BadRow` with the column, the value and a remedy for
a row that cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gemma_ft.config import Format
from gemma_ft.data.columns import MISSING, Layout, beside, value_at
from gemma_ft.data.problems import BadRow, listed, shown
from gemma_ft.data.samples import Conversation, Message, Pair, Sample, num_characters
from gemma_ft.data.source import Row
from gemma_ft.data.turns import ADD_ANSWER, check_turns, is_turns, read_turns, text_of, tools_as_text, with_system

LONGEST_ROW = 2_000_000
"""Characters; some 500,000 tokens, twice the longest context of any Gemma."""
DIALOGUE = re.compile(r"\n\n(Human|Assistant): ?")
"""How the Anthropic preference data writes who speaks."""


class RowReader:
    """Reads rows of one layout; `notes` gathers remarks on what had to be rewritten."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._read = READERS[layout.format]
        self.notes: set[str] = set()
        self.characters = 0

    def __call__(self, row: Row) -> Sample:
        """Return the row as a sample. Raises `BadRow`."""
        sample = self._read(self, row)
        length = num_characters(sample)
        self.characters += length
        if length > LONGEST_ROW:
            message = f"The row has {length:,} characters; at most {LONGEST_ROW:,} can be used."
            raise BadRow("too_long", None, message, "Split it into several rows.")
        return sample

    def column(self, part: str) -> str:
        """Return the column that holds a part of the row, or an empty text."""
        return self._layout.columns.get(part, "")

    def value(self, row: Row, part: str) -> Any:
        """Return what the row holds for a part that it must have. Raises `BadRow`."""
        value = value_at(row, self.column(part))
        if value is MISSING:
            have = listed(beside(row, self.column(part)))
            message = f"The column {self.column(part)!r} is missing; this row has: {have}."
            raise BadRow("missing_column", self.column(part), message, "Add it to this row, or leave the row out.")
        return value

    def text(self, row: Row, part: str) -> str:
        """Return the text that the row holds for a part that it must have. Raises `BadRow`."""
        return text_of(self.value(row, part), self.column(part))

    def optional(self, row: Row, part: str) -> str | None:
        """Return the text for a part that may be absent or empty. Raises `BadRow` for what is no text."""
        value = value_at(row, self.column(part)) if self.column(part) else MISSING
        if value is MISSING or value is None or (isinstance(value, str) and not value.strip()):
            return None
        if isinstance(value, dict) and isinstance(value.get("parts"), list):
            return str(read_turns([{**value, "role": "system"}], self.column(part), self.notes)[0]["content"])
        return text_of(value, self.column(part))


def _messages(read: RowReader, row: Row) -> Sample:
    turns = read_turns(read.value(row, "messages"), read.column("messages"), read.notes)
    system = read.optional(row, "system")
    tools = None
    if column := read.column("tools"):
        tools = tools_as_text(value_at(row, column), column, read.notes)
    if tools and turns and turns[0]["role"] == "system":
        turns[0]["content"] += f"\n\n{tools}"
    elif tools:
        system = f"{system}\n\n{tools}" if system else tools
    return check_turns(with_system(turns, system), read.column("messages"))


def _alpaca(read: RowReader, row: Row) -> Sample:
    parts = [read.text(row, "instruction"), read.optional(row, "input")]
    return _exchange(
        "\n\n".join(part for part in parts if part), read.text(row, "output"), read.optional(row, "system")
    )


def _prompt_completion(read: RowReader, row: Row) -> Sample:
    system = read.optional(row, "system")
    prompt, completion = read.value(row, "prompt"), read.value(row, "completion")
    if is_turns(prompt) or is_turns(completion):
        turns = [
            *_as_turns(prompt, read.column("prompt"), "user", read.notes),
            *_as_turns(completion, read.column("completion"), "assistant", read.notes),
        ]
        return check_turns(with_system(turns, system), read.column("completion"))
    parts = [read.optional(row, "context"), text_of(prompt, read.column("prompt"))]
    asked = "\n\n".join(part for part in parts if part)
    return _exchange(asked, text_of(completion, read.column("completion")), system)


def _translation(read: RowReader, row: Row) -> Sample:
    return _exchange(read.text(row, "source"), read.text(row, "target"), read.optional(row, "system"))


def _text(read: RowReader, row: Row) -> Sample:
    return read.text(row, "text")


def _preference(read: RowReader, row: Row) -> Sample:
    names = (read.column("chosen"), read.column("rejected"))
    chosen, rejected = read.value(row, "chosen"), read.value(row, "rejected")
    prompt = value_at(row, read.column("prompt")) if read.column("prompt") else None
    asked = prompt is not None and prompt is not MISSING
    if asked or is_turns(chosen) or is_turns(rejected):
        talks = (
            _as_turns(chosen, names[0], "assistant", read.notes),
            _as_turns(rejected, names[1], "assistant", read.notes),
        )
    else:
        talks = _without_prompt(text_of(chosen, names[0]), text_of(rejected, names[1]))
    if talks[0] == talks[1]:
        message = f"The chosen and the rejected answer are the same: {shown(talks[0][-1]['content'])}."
        raise BadRow("same_answers", names[1], message, "Change one of them, or leave the row out.")
    shared = _shared(*talks)
    before = talks[0][:shared]
    if asked and not before:
        before = _question(prompt, read.column("prompt"), read.notes)
    return _pair(with_system(before, read.optional(row, "system")), (talks[0][shared:], talks[1][shared:]), names)


def _question(prompt: Any, column: str, notes: set[str]) -> Conversation:
    """Return what a column `prompt` holds, which ends with the user's turn. Raises `BadRow`."""
    turns = _as_turns(prompt, column, "user", notes)
    if turns[-1]["role"] != "user":
        roles = " ".join(turn["role"] for turn in turns)
        message = f"{column!r} does not end with the user's message; its roles are: {shown(roles)}."
        raise BadRow("roles", column, message, "End it with the question that both answers reply to.")
    return turns


def _pair(before: Conversation, rest: tuple[Conversation, Conversation], names: tuple[str, str]) -> Pair:
    """Return the pair if both answers are one assistant's turn after the same question. Raises `BadRow`."""
    if not before or before[-1]["role"] != "user":
        begin = " and ".join(shown(answer[0]["content"]) if answer else "nothing" for answer in rest)
        message = f"{names[0]!r} and {names[1]!r} do not begin with the same question, but with {begin}."
        raise BadRow("no_prompt", names[0], message, "Add a column `prompt` with the question.")
    for answer, name in zip(rest, names, strict=True):
        if [turn["role"] for turn in answer] != ["assistant"]:
            roles = " ".join(turn["role"] for turn in answer) or "nothing"
            message = f"{name!r} goes on with {shown(roles)} after the shared question, not with one answer."
            raise BadRow("roles", name, message, "Let both differ in the last answer only.")
        if not all(turn["content"].strip() for turn in (*before, *answer)):
            message = f"In {name!r} nothing is said after the shared beginning, or in a turn before it."
            raise BadRow("empty_text", name, message, "Fill it in or leave the row out.")
    check_turns([*before, rest[0][0]], names[0])
    return Pair(before, rest[0][0], rest[1][0])


def _without_prompt(chosen: str, rejected: str) -> tuple[Conversation, Conversation]:
    """Split two texts that begin with the same question: by who speaks, else where the words begin to differ."""
    talks = _dialogue(chosen), _dialogue(rejected)
    if all(talks):
        return talks
    ends = min(len(chosen), len(rejected))
    same = next((place for place in range(ends) if chosen[place] != rejected[place]), ends)
    cut = max(chosen[:same].rfind(mark) + 1 for mark in " \n\t")
    asked: Conversation = [{"role": "user", "content": chosen[:cut].strip()}] if chosen[:cut].strip() else []
    begin = cut if asked else 0
    return (
        [*asked, {"role": "assistant", "content": chosen[begin:]}],
        [*asked, {"role": "assistant", "content": rejected[begin:]}],
    )


def _dialogue(text: str) -> Conversation:
    """Return the turns of a text like `\\n\\nHuman: ... \\n\\nAssistant: ...`, or none if it is no such text."""
    pieces = DIALOGUE.split(text if text.startswith("\n\n") else f"\n\n{text}")
    if pieces[0].strip() or len(pieces) < 5:
        return []
    roles = ("user" if name == "Human" else "assistant" for name in pieces[1::2])
    return [{"role": role, "content": said.strip()} for role, said in zip(roles, pieces[2::2], strict=True)]


def _shared(one: Conversation, other: Conversation) -> int:
    """Return how many turns both begin with."""
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return same


def _as_turns(value: Any, column: str, role: str, notes: set[str]) -> Conversation:
    """Return a list of messages, or a text as one message of this role. Raises `BadRow`."""
    if is_turns(value):
        return read_turns(value, column, notes)
    if value == []:
        kind, fix = ("no_answer", ADD_ANSWER) if role == "assistant" else ("no_prompt", "Add the question to it.")
        raise BadRow(kind, column, f"{column!r} is an empty list ([]).", fix)
    return [{"role": role, "content": text_of(value, column)}]


def _exchange(asked: str, answered: str, system: str | None) -> Conversation:
    turns: list[Message] = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return with_system(turns, system)


READERS: dict[Format, Callable[[RowReader, Row], Sample]] = {
    "messages": _messages,
    "sharegpt": _messages,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
    "translation": _translation,
    "text": _text,
    "preference": _preference,
}
