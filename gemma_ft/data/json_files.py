"""JSON and JSON Lines: each under the other's name too, with the rows wherever in the file they are.

Promises one row or `BadRow` for each line that is not blank, or each element of the array, and words for what JSON
forbids. JSON Lines are read line by line; one JSON value has to be in memory as a whole.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from gemma_ft.data.problems import BadRow, listed, shown
from gemma_ft.data.source import Row, Rows, Source
from gemma_ft.data.text_files import open_text
from gemma_ft.data.turns import ROLE_KEYS, ROLES, is_turns
from gemma_ft.errors import DataError

LONGEST_LINE = 32_000_000
"""Characters; a longer line is no row of anything that can be trained on."""
WHOLE_JSON = 1_000_000_000
"""Characters of a `.json` file, which has to be in memory as a whole."""
LIKELY_ARRAYS = ("data", "rows", "examples", "train", "samples", "items", "instances", "records", "conversations")
ROW_KEYS = {"messages", "prompt", "completion", "instruction", "question", "chosen", "rejected", "text", "contents"}
AS_ARRAY = 'Write the rows as an array: [{"prompt": "...", "completion": "..."}, ...].'
AS_OBJECT = 'Write each row as {"prompt": "...", "completion": "..."}.'
QUOTES = "Write names and texts in double quotes, and leave out comments."
TROUBLES = (
    ("Unterminated", "a text is not closed", 'Close it with ".'),
    ("Invalid control", "a text holds a line break, a tab or the like as it is", r"Write them as \n and \t."),
    ("Invalid \\", "a backslash stands alone", r"Write a backslash as \\."),
    (
        "Extra data",
        "more follows after the end of the value",
        "Write one object a line in a .jsonl, or one array in a .json.",
    ),
    ("Expecting property name", "a name in double quotes is missing", QUOTES),
    ("Expecting ':'", "a colon is missing", 'Write "name": "value".'),
    ("Expecting ','", "a comma or a closing bracket is missing", "Add it, or put \\ before a quote inside a text."),
    ("Expecting value", "what stands there is no value of JSON", f"{QUOTES} Beside them only true, false and null."),
)
"""How Python's messages begin, what they mean, and what to do."""


def json_lines_file(path: Path, encoding: str) -> Source:
    """Return the rows of JSON Lines, or of one JSON array under that name. Raises `DataError`."""
    first, more = _first_lines(path, encoding)
    if first == "{" or (first.startswith("[") and not (more and _is_json(first))):
        return _whole(path, encoding)
    return Source(name=path.name, read=partial(_lines, path, encoding))


def json_file(path: Path, encoding: str) -> Source:
    """Return the rows of an array somewhere in one JSON value, or of JSON Lines. Raises `DataError`."""
    first, more = _first_lines(path, encoding)
    if more and first.startswith("{") and _is_json(first):
        return Source(name=path.name, read=partial(_lines, path, encoding))
    return _whole(path, encoding)


def _first_lines(path: Path, encoding: str) -> tuple[str, bool]:
    """Return the first line that is not blank, and whether another one follows. Raises `DataError`."""
    first, what = "", "a byte order mark and nothing after it"
    with open_text(path, encoding) as file:
        while line := file.readline(LONGEST_LINE):
            if line.strip() and first:
                return first, True
            first, what = first or line.strip(), "only blank lines"
    if not first:
        raise DataError(f"{path.name} holds no rows, {what}.", "Put at least two rows in it.")
    return first, False


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(path: Path, encoding: str) -> Rows:
    with open_text(path, encoding) as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE and not line.endswith("\n"):
                while (rest := file.readline(LONGEST_LINE)) and not rest.endswith("\n"):
                    pass
                message = f"Line {number} has more than {LONGEST_LINE:,} characters."
                yield BadRow("too_long", None, message, "Write one row a line, and split long ones into several.")
            elif line := line.strip():
                yield _line(line, number)


def _line(line: str, number: int) -> Row | BadRow:
    try:
        value = json.loads(line)
    except ValueError as exc:
        why, fix = _trouble(exc)
        column = f" at column {exc.colno}" if isinstance(exc, json.JSONDecodeError) else ""
        return BadRow("not_json", None, f"Line {number} is not valid JSON: {why}{column}: {shown(line)}.", fix)
    except RecursionError:
        message = f"Line {number} is nested too deeply to be read: {shown(line)}."
        return BadRow("not_json", None, message, AS_OBJECT)
    return _object(value, f"Line {number}")


def _object(value: Any, where: str) -> Row | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow("not_object", None, f"{where} is {shown(value)}, not a row in braces {{ }}.", AS_OBJECT)


def _whole(path: Path, encoding: str) -> Source:
    with open_text(path, encoding) as file:
        text = file.read(WHOLE_JSON + 1)
    if len(text) > WHOLE_JSON:
        raise DataError(f"{path.name} is too large to be one JSON value.", "Save it as JSON Lines, one row a line.")
    values, note = _find_rows(_parse(text, path.name), path.name)
    return Source(name=path.name, read=partial(_elements, values), notes=(note,) if note else (), total=len(values))


def _elements(values: list[Any]) -> Rows:
    for number, value in enumerate(values, start=1):
        yield _object(value, f"Element {number}")


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno}, column {exc.colno}"
        near = shown(text[max(0, exc.pos - 20) : exc.pos + 20])
        if exc.pos >= len(text.rstrip()) or exc.msg.startswith("Unterminated"):
            again = "Save or download it again, or complete its end."
            raise DataError(f"{name} was cut off: it ends in the middle, at {place}, near {near}.", again) from exc
        why, fix = _trouble(exc)
        raise DataError(f"{name} is not valid JSON at {place}: {why}, near {near}.", fix) from exc
    except RecursionError as exc:
        raise DataError(f"{name} is nested too deeply to be read.", AS_ARRAY) from exc
    except ValueError as exc:
        why, fix = _trouble(exc)
        raise DataError(f"{name} is not valid JSON: {why}.", fix) from exc


def _trouble(exc: ValueError) -> tuple[str, str]:
    """Return in plain words what is wrong with the JSON, and what to do."""
    if not isinstance(exc, json.JSONDecodeError):
        return "a number has too many digits", "Write it as a text in double quotes."
    before, after = exc.doc[: exc.pos].rstrip()[-1:], exc.doc[exc.pos : exc.pos + 1]
    if exc.msg.startswith("Illegal trailing comma") or (before == "," and after in ("]", "}")):
        return "a comma stands after the last value", "Delete that comma."
    return next(((why, fix) for begin, why, fix in TROUBLES if exc.msg.startswith(begin)), ("it is damaged", AS_OBJECT))


def _find_rows(value: Any, name: str) -> tuple[list[Any], str]:
    """Return the array that holds the rows, and a remark on where it was. Raises `DataError`."""
    if isinstance(value, list):
        return _array(value, name), ""
    if not isinstance(value, dict):
        raise DataError(f"{name} holds just {shown(value)}, no rows.", AS_ARRAY)
    lists = {key: inner for key, inner in value.items() if isinstance(inner, list)}
    arrays = [key for key, inner in lists.items() if any(isinstance(element, dict) for element in inner)]
    likely = [key for wanted in LIKELY_ARRAYS for key in value if key.lower() == wanted]
    if len(value) > 1 and len(lists) == len(value) and not arrays:
        raise DataError(
            f"{name} holds a table column by column ({listed(value)}), not row by row.",
            f'{AS_ARRAY} In pandas: df.to_json("rows.json", orient="records").',
        )
    named = [key for key in likely if key in arrays]
    is_row = not named and ROW_KEYS & {key.lower() for key in value}
    if is_row or any(_is_conversation(value[key]) for key in arrays):
        return [value], "The file holds a single row."
    if len(arrays) > 1 and not named:
        raise DataError(f"{name} holds several arrays of rows: {listed(arrays)}.", "Save the one to train on alone.")
    if arrays:
        key = (named or arrays)[0]
        return _array(value[key], name), f"The rows are the array under {listed([key])}."
    if inner := next((value[key] for key in likely if isinstance(value[key], dict)), None):
        return _find_rows(inner, name)
    raise _no_rows(value, name)


def _array(values: list[Any], name: str) -> list[Any]:
    """Return the rows in an array, out of the covers that the Hub's viewer puts around each. Raises `DataError`."""
    if not values:
        raise DataError(f"{name} holds an empty array, so there are no rows.", AS_ARRAY)
    if _is_conversation(values):
        raise DataError(
            f"{name} holds the messages of a single conversation ({listed(values[0])}) in the place of rows.",
            'Write each conversation as a row: [{"messages": [...]}, {"messages": [...]}].',
        )
    if all(isinstance(element, dict) and "row_idx" in element and "row" in element for element in values):
        return [element["row"] for element in values]
    return values


def _is_conversation(values: list[Any]) -> bool:
    """Tell whether an array is a list of messages, of whom at least one has a role that is known."""
    return is_turns(values) and any(str(turn.get(key)).lower() in ROLES for turn in values for key in ROLE_KEYS)


def _no_rows(value: dict[str, Any], name: str) -> DataError:
    if not value:
        return DataError(f"{name} holds an empty object and no rows.", AS_ARRAY)
    if "error" in value:
        said = shown(value["error"])
        return DataError(f"{name} holds the error message of a service, not data: {said}.", "Download the data again.")
    return DataError(f"{name} holds one object without an array of rows in it; it has: {listed(value)}.", AS_ARRAY)
