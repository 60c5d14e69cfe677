"""Files of rows: JSON, JSON Lines, CSV, TSV, Parquet and plain text, as one `Source`.

Promises rows in the file's order, one `BadRow` for each place where there should be a row and is none, and memory that
does not grow with the file, except for `.json`, which is read whole. What a file is called decides how it is read;
JSON Lines under a JSON name and the reverse are both understood. Does not judge the rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from gemma_ft.data.json_files import json_file, json_lines_file
from gemma_ft.data.source import Rows, Source
from gemma_ft.data.tables import csv_file, parquet_file
from gemma_ft.data.text_files import WINDOWS, WINDOWS_NOTE, find_encoding, open_text, reading
from gemma_ft.errors import DataError

SAVE_FROM_EXCEL = "Open it in Excel and save the sheet with the rows as CSV (File > Save as > CSV UTF-8)."
SAVE_FROM_WORD = "Save its text as .txt, or put questions and answers into a table and save that as .csv."
UNPACK = "Unpack it, and give the file of data that is in it."
OTHER_ENDINGS = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), SAVE_FROM_EXCEL),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf"), SAVE_FROM_WORD),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst"), UNPACK),
}
LOOKED_AT = 100_000
JSON_START = re.compile(r'\s*(\[\s*[\[{]|\{\s*")')


def open_file(path: Path) -> Source:
    """Return the rows of a file. Raises `DataError` when it is missing, of no known kind, or cannot be read."""
    ending = _ending(path)
    with reading(path):
        if path.stat().st_size == 0 and path.is_file():
            raise DataError(f"{path.name} is empty (0 bytes).", "Put the data in it, or upload it again.")
        if path.is_dir():
            raise IsADirectoryError
        if not path.is_file():
            raise DataError(f"{path.name} is no ordinary file, but a pipe or a device.", "Save the data as a file.")
    if ending == ".parquet":
        return parquet_file(path)
    encoding = find_encoding(path)
    source = TEXT_READERS[ending](path, encoding)
    return replace(source, notes=(*source.notes, WINDOWS_NOTE)) if encoding == WINDOWS else source


def _ending(path: Path) -> str:
    """Return the ending that tells how the file is read, without `.gz`. Raises `DataError`."""
    endings = [ending.lower() for ending in path.suffixes]
    if endings[-1:] == [".gz"]:
        endings.pop()
    ending = endings[-1] if endings else ""
    if ending in (*TEXT_READERS, ".parquet"):
        return ending
    known = f"Save the data as one of: {', '.join((*TEXT_READERS, '.parquet'))}."
    if not ending:
        raise DataError(f"{path.name} has no ending that tells how to read it.", known)
    raise DataError(f"{path.name} ends in {ending}, which is not read.", OTHER_ENDINGS.get(ending, known))


def _no_json(read: Callable[[Path, str], Source], path: Path, encoding: str) -> Source:
    """Read a file that must not be JSON under another name. Raises `DataError`."""
    with open_text(path, encoding) as file:
        start = file.read(LOOKED_AT)
    if JSON_START.match(start):
        try:
            json.loads(start.lstrip().splitlines()[0])
        except (ValueError, RecursionError):
            what, right = "one JSON value", ".json"
        else:
            what, right = "JSON, one value a line", ".jsonl"
        raise DataError(f"{path.name} holds {what}.", f"Rename it so that it ends in {right}.")
    return read(path, encoding)


def _plain_text_file(path: Path, encoding: str) -> Source:
    with open_text(path, encoding) as file:
        if not any(line.strip() for line in file):
            raise DataError(f"{path.name} holds no text, only blanks and empty lines.", "Put the text in it.")
    with open_text(path, encoding) as file:
        paragraphs = _has_blank_line(file)
    what = "Each paragraph (up to a blank line)" if paragraphs else "Each line"
    read = partial(_paragraphs if paragraphs else _lines, path, encoding)
    return Source(name=path.name, read=read, notes=(f"{what} is one text.",))


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


TEXT_READERS: dict[str, Callable[[Path, str], Source]] = {
    ".jsonl": json_lines_file,
    ".ndjson": json_lines_file,
    ".json": json_file,
    ".csv": partial(_no_json, csv_file),
    ".tsv": partial(_no_json, partial(csv_file, delimiters="\t")),
    ".txt": partial(_no_json, _plain_text_file),
}
FILE_ENDINGS = (*TEXT_READERS, ".parquet", ".gz")
"""What an upload may be called."""
