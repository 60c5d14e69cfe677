"""Where rows come from: bundled examples, and files.

Promises rows as plain dictionaries in the file's order, or a `DataError` with the line at fault. Reads JSON Lines
(`.jsonl`) and JSON arrays (`.json`), UTF-8 with or without a byte order mark. Does not judge the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemma_ft.config import DataConfig
from gemma_ft.errors import DataError

BUNDLED = Path(__file__).parent / "bundled"
EXAMPLES = {"capitals": "capitals.jsonl"}


def read_rows(data: DataConfig) -> list[dict[str, Any]]:
    """Return all rows of the configured source. Raises `DataError` when it is missing, unreadable or empty."""
    path = source_path(data)
    if path.suffix not in (".json", ".jsonl"):
        raise DataError(f"{path.name} is no .jsonl or .json file.", "Save the data as JSON Lines or as a JSON array.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as exc:
        raise DataError(f"There is no file {path}.", "Check the path, or upload the file again.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path.name} cannot be read as UTF-8 text: {exc}.", "Save it as UTF-8.") from exc
    rows = list(_json_array(text, path.name) if path.suffix == ".json" else _json_lines(text, path.name))
    if not rows:
        raise DataError(f"{path.name} holds no rows.", "Put at least two rows in it.")
    return rows


def source_path(data: DataConfig) -> Path:
    """Return the file behind a source. Raises `DataError` for an example that does not exist."""
    if data.source == "file":
        return Path(data.path or "")
    if data.id not in EXAMPLES:
        raise DataError(f"There is no bundled example {data.id!r}.", f"The examples are: {', '.join(EXAMPLES)}.")
    return BUNDLED / EXAMPLES[data.id]


def _json_lines(text: str, name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _object(_parse(line, f"Line {number} of {name}"), f"Line {number} of {name}")


def _json_array(text: str, name: str) -> Iterator[dict[str, Any]]:
    value = _parse(text, name)
    if not isinstance(value, list):
        raise DataError(f"{name} holds a {type(value).__name__}, not an array.", "Wrap the rows in [ and ].")
    for number, row in enumerate(value, start=1):
        yield _object(row, f"Row {number} of {name}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"{where} is not valid JSON: {exc}.", "Mend that place and try again.") from exc


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f'{where} is not an object like {{"messages": [...]}}.', "Write one object per row.")
    return value
