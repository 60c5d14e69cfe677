"""Files of rows: JSON, JSON Lines, CSV, TSV, Parquet and plain text, as one `Source`.

Promises rows in the file's order, one `BadRow` for each place where there should be a row and is none, and memory that
does not grow with the file, except for `.json`, which is read whole. What a file is called decides how it is read;
JSON Lines under a JSON name and the reverse are both understood. Does not judge the rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from gemma_ft.data.problems import BadRow, shown
from gemma_ft.data.source import Row, Rows, Source
from gemma_ft.data.text_files import WINDOWS, WINDOWS_NOTE, find_encoding, open_text, reading
from gemma_ft.errors import DataError

LONGEST_LINE = 32_000_000
"""Characters; a longer line is no row of anything that can be trained on."""
WHOLE_JSON = 1_000_000_000
"""Characters of a `.json` file, which has to be in memory as a whole."""
LIKELY_ARRAYS = ("data", "rows", "examples", "train", "samples", "items", "instances", "records", "conversations")
ROW_KEYS = {"messages", "prompt", "completion", "instruction", "question", "chosen", "rejected", "text", "contents"}
DELIMITERS = ",;\t|"
LONGEST_NAME = 60


def open_file(path: Path) -> Source:
    """Return the rows of a file. Raises `DataError` when it is missing, of no known kind, or cannot be read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind not in READERS:
        known = ", ".join(READERS)
        raise DataError(f"{path.name} has no ending that tells how to read it.", f"Save the data as one of: {known}.")
    with reading(path):
        if path.stat().st_size == 0:
            raise DataError(f"{path.name} is empty (0 bytes).", "Put the data in it, or upload it again.")
    return READERS[kind](path)


def _text_source(path: Path, rows: Callable[[Path, str], Rows], notes: tuple[str, ...] = ()) -> Source:
    encoding = find_encoding(path)
    if encoding == WINDOWS:
        notes = (*notes, WINDOWS_NOTE)

    def read() -> Rows:
        with reading(path):
            yield from rows(path, encoding)

    return Source(name=path.name, read=read, notes=notes)


def _json_lines_file(path: Path) -> Source:
    encoding = find_encoding(path)
    with reading(path), open_text(path, encoding) as file:
        first = next((line.strip() for line in iter(partial(file.readline, LONGEST_LINE), "") if line.strip()), "")
    if first.startswith("[") or first == "{":
        return _json_file(path)
    return _text_source(path, _json_lines)


def _json_file(path: Path) -> Source:
    encoding = find_encoding(path)
    if _is_object_line(path, encoding):
        return _text_source(path, _json_lines)
    note = WINDOWS_NOTE if encoding == WINDOWS else ""
    with reading(path), open_text(path, encoding) as file:
        text = file.read(WHOLE_JSON + 1)
    if len(text) > WHOLE_JSON:
        raise DataError(f"{path.name} is too large to be one JSON value.", "Save it as JSON Lines, one row a line.")
    values, where = _find_array(_parse(text, path.name), path.name)
    notes = tuple(remark for remark in (note, where) if remark)
    return Source(name=path.name, read=partial(_objects, values), notes=notes, total=len(values))


def _is_object_line(path: Path, encoding: str) -> bool:
    """Tell whether the first two lines that are not blank are one JSON object each: JSON Lines."""
    objects = 0
    with reading(path), open_text(path, encoding) as file:
        while objects < 2 and (line := file.readline(LONGEST_LINE)):
            if not line.strip():
                continue
            if not line.lstrip().startswith("{"):
                return False
            with suppress(ValueError, RecursionError):
                json.loads(line)
                objects += 1
                continue
            return objects > 0
    return objects == 2


def _json_lines(path: Path, encoding: str) -> Rows:
    with open_text(path, encoding) as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise DataError(f"Line {number} of {path.name} is endless.", "Write one JSON object a line.")
            if line.strip():
                yield _line(line, number)


def _line(line: str, number: int) -> Row | BadRow:
    try:
        value = json.loads(line)
    except ValueError as exc:
        message = f"Line {number} is not valid JSON ({_why(exc)}): {shown(line.strip())}."
        return BadRow("not_json", None, message, "Write one JSON object a line, in double quotes.")
    except RecursionError:
        return BadRow("not_json", None, f"Line {number} is nested too deeply to be read.", "Flatten it.")
    return _object(value, f"Line {number}")


def _objects(values: list[Any]) -> Rows:
    for number, value in enumerate(values, start=1):
        yield _object(value, f"Element {number}")


def _object(value: Any, where: str) -> Row | BadRow:
    if isinstance(value, dict):
        return value
    message = f"{where} is {shown(value)}, not an object."
    return BadRow("not_object", None, message, 'Write each row as {"prompt": "...", "completion": "..."}.')


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        place = f"line {exc.lineno}, column {exc.colno}"
        if exc.pos >= len(text.rstrip()):
            raise DataError(f"{name} ends in the middle, at {place}.", "It was cut off: save it again.") from exc
        near = shown(text[max(0, exc.pos - 20) : exc.pos + 20])
        raise DataError(f"{name} is not valid JSON at {place} ({_why(exc)}), near {near}.", "Mend that place.") from exc
    except RecursionError as exc:
        raise DataError(f"{name} is nested too deeply to be read.", "Save the rows as a flat array.") from exc
    except ValueError as exc:
        raise DataError(f"{name} is not valid JSON: {exc}.", "Mend that value.") from exc


def _why(exc: ValueError) -> str:
    if not isinstance(exc, json.JSONDecodeError):
        return "a number is too long"
    text = exc.msg[0].lower() + exc.msg[1:]
    return text if exc.msg.startswith("Extra") else f"{text} at column {exc.colno}"


def _find_array(value: Any, name: str) -> tuple[list[Any], str]:
    """Return the array that holds the rows, and a remark on where it was. Raises `DataError`."""
    if isinstance(value, list):
        return value, ""
    if not isinstance(value, dict):
        raise DataError(f"{name} holds just {shown(value)}, no rows.", "Write an array of objects: [{...}, {...}].")
    if ROW_KEYS & {key.lower() for key in value}:
        return [value], "The file holds a single row."
    arrays = [
        key for key, inner in value.items() if isinstance(inner, list) and any(isinstance(e, dict) for e in inner)
    ]
    likely = [key for wanted in LIKELY_ARRAYS for key in arrays if key.lower() == wanted]
    if len(arrays) > 1 and not likely:
        listed = ", ".join(map(repr, arrays))
        raise DataError(f"{name} holds several arrays of rows: {listed}.", "Save the one to train on as a file.")
    if not arrays:
        keys = ", ".join(repr(key) for key in list(value)[:8]) or "none"
        raise DataError(f"{name} holds an object without an array of rows; its keys: {keys}.", "Wrap rows in [ and ].")
    key = (likely or arrays)[0]
    return value[key], f"The rows are the array under {key!r}."


def _csv_file(path: Path, delimiters: str = DELIMITERS) -> Source:
    encoding = find_encoding(path)
    with reading(path), open_text(path, encoding, newline="") as file:
        start = file.read(100_000)
    lines = start.lstrip("\r\n").splitlines() or [""]
    delimiter = max(delimiters, key=_outside_quotes(lines[0]).count)
    names = _names(next(csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter), []), path.name)
    return _text_source(path, partial(_csv_rows, names=names, delimiter=delimiter))


def _outside_quotes(line: str) -> str:
    return "".join(line.split('"')[::2])


def _names(header: list[str], name: str) -> list[str]:
    """Return the names of the columns; empty ones at the end are what Excel leaves behind. Raises `DataError`."""
    names = [cell.strip() for cell in header]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{name} has no line with the names of the columns.", "Begin it with `prompt,completion`.")
    if double := sorted({cell for cell in names if names.count(cell) > 1}):
        raise DataError(f"{name} has several columns called {double[0]!r}.", "Give each column a name of its own.")
    if sentence := next((cell for cell in names if len(cell) > LONGEST_NAME or cell.endswith(("?", "."))), None):
        raise DataError(
            f"The first line of {name} looks like data, not like names of columns: {shown(sentence)}.",
            "Put a line such as `prompt,completion` on top.",
        )
    return [cell or f"column {place}" for place, cell in enumerate(names, start=1)]


def _csv_rows(path: Path, encoding: str, *, names: list[str], delimiter: str) -> Rows:
    csv.field_size_limit(LONGEST_LINE)
    with open_text(path, encoding, newline="") as file:
        table = csv.reader(file, delimiter=delimiter, strict=True)
        header = True
        while True:
            began = table.line_num + 1
            try:
                cells = next(table, None)
            except csv.Error as exc:
                message = f"Line {began} cannot be split into columns: {exc}."
                yield BadRow("fields", None, message, "Close every quote, and double the quotes inside a text.")
                continue
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            if header:
                header = False
                continue
            yield _csv_row(cells, names, began)


def _csv_row(cells: list[str], names: list[str], line: int) -> Row | BadRow:
    extra = [cell for cell in cells[len(names) :] if cell.strip()]
    if len(cells) < len(names) or extra:
        counted = len(cells) if len(cells) < len(names) else len(names) + len(extra)
        message = f"Line {line} has {counted} values for {len(names)} columns: {shown(cells)}."
        return BadRow("fields", None, message, "Put texts with commas or line breaks in double quotes.")
    return dict(zip(names, cells, strict=False))


def _parquet_file(path: Path) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def read() -> Rows:
        try:
            with reading(path), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1000):
                    yield from batch.to_pylist()
        except (pa.ArrowException, UnicodeDecodeError) as exc:
            raise DataError(f"{path.name} is a damaged Parquet file.", "Save it again.") from exc

    try:
        with reading(path), pq.ParquetFile(path) as file:
            total = file.metadata.num_rows
    except pa.ArrowException as exc:
        raise DataError(f"{path.name} is no Parquet file, or it was cut off.", "Save it again as Parquet.") from exc
    return Source(name=path.name, read=read, total=total)


def _plain_text_file(path: Path) -> Source:
    encoding = find_encoding(path)
    with reading(path), open_text(path, encoding) as file:
        paragraphs = _has_blank_line(file)
    what = "Each paragraph (up to a blank line)" if paragraphs else "Each line"
    return _text_source(path, _paragraphs if paragraphs else _lines, (f"{what} is one text.",))


def _has_blank_line(lines: Iterator[str]) -> bool:
    """Tell whether a blank line stands between two lines of text."""
    text = blank = False
    for line in lines:
        if line.strip() and text and blank:
            return True
        blank = text and not line.strip()
        text = text or bool(line.strip())
    return False


def _lines(path: Path, encoding: str) -> Rows:
    with open_text(path, encoding) as file:
        for line in file:
            if line.strip():
                yield {"text": line.strip()}


def _paragraphs(path: Path, encoding: str) -> Rows:
    held: list[str] = []
    with open_text(path, encoding) as file:
        for line in file:
            if line.strip():
                held.append(line)
            elif held:
                yield {"text": "".join(held).strip()}
                held = []
    if held:
        yield {"text": "".join(held).strip()}


READERS: dict[str, Callable[[Path], Source]] = {
    ".jsonl": _json_lines_file,
    ".ndjson": _json_lines_file,
    ".json": _json_file,
    ".csv": _csv_file,
    ".tsv": partial(_csv_file, delimiters="\t"),
    ".parquet": _parquet_file,
    ".txt": _plain_text_file,
}
FILE_ENDINGS = (*READERS, ".gz")
"""What an upload may be called."""
