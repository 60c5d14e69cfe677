"""Which column holds what: the format of rows and the mapping of our names to theirs.

Promises that the mapping is a plain dictionary that can be shown and changed column by column, and that what the person
mapped is never overruled. A column is named as in the data, or with dots into what it holds: `translation.en`,
`answers.text.0`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gemma_ft.config import Format
from gemma_ft.data.problems import listed
from gemma_ft.data.source import Row
from gemma_ft.data.turns import is_turns, role_keys
from gemma_ft.errors import DataError

LOOKED_AT = 100
"""How many of the first rows decide."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The parts of a row in one format, each with the names that people give such a column."""

    required: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows are read: a format, and for each of its parts the column that holds it."""

    format: Format
    columns: dict[str, str]


SYSTEM = ("system", "system_prompt", "system_instruction", "systemInstruction", "system_message")
TURNS = ("messages", "conversations", "conversation", "contents", "chat", "dialog", "dialogue", "turns", "thread")
QUESTIONS = ("prompt", "question", "q", "query", "input", "user", "human", "request", "problem", "src")
ANSWERS = ("completion", "answer", "a", "response", "output", "reply", "assistant", "gpt", "target", "solution", "dst")
TEXTS = ("text", "content", "document", "body", "article", "passage")
SHAPES: dict[Format, Shape] = {
    "preference": Shape(
        {
            "chosen": ("chosen", "preferred_output", "preferred", "accepted", "winner", "chosen_response"),
            "rejected": ("rejected", "non_preferred_output", "dispreferred", "loser", "rejected_response"),
        },
        {"prompt": ("prompt", "input.messages", *QUESTIONS[1:], "instruction"), "system": SYSTEM},
    ),
    "messages": Shape({"messages": TURNS}, {"system": SYSTEM, "tools": ("tools", "functions")}),
    "sharegpt": Shape({"messages": TURNS}, {"system": SYSTEM, "tools": ("tools", "functions")}),
    "alpaca": Shape(
        {"instruction": ("instruction",), "output": ("output", "response", "answer", "completion")},
        {"input": ("input", "context"), "system": SYSTEM},
    ),
    "translation": Shape(
        {
            "source": ("source", "src", "source_text", "source_sentence"),
            "target": ("target", "dst", "tgt", "target_text", "target_sentence"),
        },
        {"system": SYSTEM},
    ),
    "prompt_completion": Shape(
        {"prompt": QUESTIONS, "completion": ANSWERS}, {"context": ("context",), "system": SYSTEM}
    ),
    "text": Shape({"text": TEXTS}, {}),
}
NOT_TEXT = {"id", "idx", "index", "url", "uuid", "source", "lang", "language", "split", "category", "label", "date"}
"""Columns that are not taken for a question or an answer when only their content speaks for it."""
LONGEST_GUESSED = 100
"""Characters of a name of a column that is taken for its content alone."""
NUMBERS = re.compile(r"[\d\s.,:;/+\-%$€£TZ]*", re.ASCII)
"""What cells of numbers, dates and times are made of."""
MISSING = object()


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """Return what a column holds, following dots into objects and arrays; `MISSING` when there is no such place."""
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def beside(row: Mapping[str, Any], column: str) -> list[str]:
    """Return the names of what stands where a column should be, such as `translation.en` for `translation.cy`."""
    above = column.rpartition(".")[0]
    held = value_at(row, above) if above else None
    return [f"{above}.{name}" for name in held] if isinstance(held, Mapping) else list(row)


def find_layout(rows: Sequence[Row], wanted: Format | Literal["auto"], mapped: Mapping[str, str]) -> Layout:
    """Return the layout of the first rows, given a format or none, and what the person mapped.

    Raises `DataError` that names the columns found and what is missing.
    """
    found = columns_of(rows)
    _refuse_unknown(rows, found, wanted, mapped)
    for name in SHAPES if wanted == "auto" else (wanted,):
        shape = SHAPES[name]
        if not set(mapped) <= {*shape.required, *shape.optional}:
            continue
        columns = _columns(rows, found, shape, mapped, special=_special(name, rows, found))
        if set(shape.required) <= set(columns) and (wanted != "auto" or mapped or _fits(name, rows, columns)):
            return Layout(name, columns)
    if wanted in ("auto", "prompt_completion", "text") and not mapped and (guessed := _by_content(rows, found, wanted)):
        return guessed
    if wanted == "auto":
        textless = not any(_is_text(_values(rows, column)) or _is_nested(_values(rows, column)) for column in found)
        why = "hold numbers, but no text to learn" if textless else "fit no known format"
        raise DataError(
            f"The columns found ({listed(found)}) {why}.",
            "Choose a format and say which column holds what, or call the columns `prompt` and `completion`.",
        )
    lacking = [part for part in SHAPES[wanted].required if part not in mapped]
    raise DataError(
        f"The format {wanted} needs {' and '.join(SHAPES[wanted].required)}; the columns found are {listed(found)}.",
        f"Say which column holds {' and '.join(lacking) or 'what'}, or choose another format.",
    )


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the names of all columns in the first rows, in the order in which they appear."""
    return list(dict.fromkeys(str(name) for row in rows[:LOOKED_AT] for name in row))


def _refuse_unknown(rows: Sequence[Row], found: list[str], wanted: str, mapped: Mapping[str, str]) -> None:
    """Refuse a mapping of parts that no format has, or to columns that are not there."""
    shapes = [shape for name, shape in SHAPES.items() if wanted in ("auto", name)]
    parts = sorted({part for shape in shapes for part in (*shape.required, *shape.optional)})
    for part, column in mapped.items():
        if part not in parts:
            raise DataError(f"data.columns: there is no part {listed([part])}.", f"The parts are: {', '.join(parts)}.")
        if column and all(value_at(row, column) is MISSING for row in rows[:LOOKED_AT]):
            near = difflib.get_close_matches(column, found, n=1)
            raise DataError(
                f"There is no column {listed([column])}; the columns found are {listed(found)}.",
                f"Did you mean {listed(near)}?" if near else f"Say which of these holds {part}, under data.columns.",
            )


def _columns(
    rows: Sequence[Row], found: list[str], shape: Shape, mapped: Mapping[str, str], special: Mapping[str, str]
) -> dict[str, str]:
    """Return a column for each part that has one: what was mapped (to nothing: no column), what is
    special to the format, else what is called so.
    """
    columns = {part: mapped.get(part, special.get(part, "")) for part in (*shape.required, *shape.optional)}
    taken = set(columns.values())
    for part, names in (*shape.required.items(), *shape.optional.items()):
        if columns[part] or part in mapped:
            continue
        column = next((column for name in names if (column := _named(name, rows, found)) and column not in taken), "")
        columns[part] = column
        taken.add(column)
    return {part: column for part, column in columns.items() if column}


def _named(name: str, rows: Sequence[Row], found: list[str]) -> str:
    """Return the column that is called so, whatever its case, blanks and underscores."""
    if "." in name:
        return name if any(value_at(row, name) is not MISSING for row in rows[:LOOKED_AT]) else ""
    return next((column for column in found if _plain(column) == _plain(name)), "")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _values(rows: Sequence[Row], column: str) -> list[Any]:
    """Return what the first rows hold in a column, without the empty places."""
    values = (value_at(row, column) for row in rows[:LOOKED_AT])
    return [value for value in values if value is not MISSING and value not in (None, "")]


def _special(name: Format, rows: Sequence[Row], found: list[str]) -> dict[str, str]:
    """Return the columns that a format finds by looking inside: languages, lists of answers, turns."""
    if name == "translation":
        for column in found:
            held = next(iter(_values(rows, column)), None)
            if _plain(column) == "translation" and isinstance(held, Mapping) and len(held) >= 2:
                source, target = list(held)[:2]
                return {"source": f"{column}.{source}", "target": f"{column}.{target}"}
    if name == "prompt_completion":
        for column in found:
            held = next(iter(_values(rows, column)), None)
            if isinstance(held, Mapping) and isinstance(held.get("text"), list) and _plain(column) == "answers":
                return {"completion": f"{column}.text.0"}
    if name in ("messages", "sharegpt"):
        turns = [column for column in found if any(is_turns(value) for value in _values(rows, column)[:10])]
        named = [column for column in turns if _plain(column) in {_plain(name) for name in TURNS}]
        return {"messages": (named or turns)[0]} if turns else {}
    return {}


def _fits(name: Format, rows: Sequence[Row], columns: Mapping[str, str]) -> bool:
    """Tell whether what the columns hold is what the format expects, as far as names do not settle it."""
    if name in ("messages", "sharegpt"):
        keys = next((keys for value in _values(rows, columns["messages"]) if (keys := role_keys(value))), None)
        if keys is None:
            return name == "messages" and columns["messages"] == "messages"
        return (name == "sharegpt") == ("from" in keys)
    if name == "translation":
        return not {"prompt", "completion"} <= set(columns_of(rows))
    if name == "text":
        return sum(_is_text(_values(rows, column)) for column in columns_of(rows)) == 1 or columns["text"] == "text"
    return True


def _is_text(values: Sequence[Any]) -> bool:
    """Tell whether all are texts, and most of them are more than a number or a date."""
    if not all(isinstance(value, str) for value in values):
        return False
    return sum(not NUMBERS.fullmatch(value) for value in values) * 2 > len(values)


def _is_nested(values: Sequence[Any]) -> bool:
    return any(isinstance(value, list | Mapping) for value in values)


def _by_content(rows: Sequence[Row], found: list[str], wanted: str) -> Layout | None:
    """Take the only two columns of text for question and answer, or the only one for text.

    A single one is not taken when lists or objects beside it, or numbers behind it, may be what is to be learned.
    """
    named = {column: _values(rows, column) for column in found if _plain(column) not in NOT_TEXT}
    texts = [column for column, values in named.items() if _is_text(values) and len(column) <= LONGEST_GUESSED]
    if len(texts) == 2 and wanted != "text":
        return Layout("prompt_completion", {"prompt": texts[0], "completion": texts[1]})
    if len(texts) != 1 or wanted == "prompt_completion":
        return None
    behind = list(named.values())[list(named).index(texts[0]) + 1 :]
    answers = any(isinstance(value, str) for values in behind for value in values)
    if wanted == "auto" and (answers or any(map(_is_nested, named.values()))):
        return None
    return Layout("text", {"text": texts[0]})
