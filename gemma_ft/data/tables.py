"""Tables: CSV, TSV and Parquet.

Promises one row or `BadRow` for each record, under the names of the columns, and memory that does not grow with the
file. Cells of CSV are text to the last letter; what a Parquet file holds that Python has no value for is left empty.
"""

from __future__ import annotations

import csv
import gzip
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from gemma_ft.data.problems import BadRow, listed, shown
from gemma_ft.data.source import Row, Rows, Source
from gemma_ft.data.text_files import first_bytes, open_bytes, open_text, reading, refuse_other_kinds
from gemma_ft.errors import DataError

LONGEST_CELL = 32_000_000
LOOKED_AT = 100_000
BATCH_ROWS = 1000
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SENTENCE = re.compile(r".{61,}|.*\?|.*\S .*\.", re.DOTALL)
"""What is no name of a column."""
PARQUET = b"PAR1"


class _Style(NamedTuple):
    """How a CSV file is written."""

    delimiter: str
    blank_after: bool

    @property
    def fix(self) -> str:
        """What to do with a record that cannot be split."""
        return (
            f"Put texts with {DELIMITERS[self.delimiter]}, quotes or line breaks in double quotes, and write a quote "
            'inside such a text twice: "".'
        )


def csv_file(path: Path, encoding: str, *, delimiters: str = "".join(DELIMITERS)) -> Source:
    """Return the rows of a CSV file with a header, separated as its first line shows. Raises `DataError`."""
    style = _style(path, encoding, delimiters)
    records = _records(path, encoding, style)
    _, header = next(records, (0, []))
    if isinstance(header, BadRow):
        raise DataError(f"{path.name} has no header that can be read. {header.message}", header.fix)
    names = _names(header, path.name)
    if next(records, None) is None:
        raise DataError(f"{path.name} has a header ({listed(names)}) and no rows below it.", "Add the rows.")
    return Source(name=path.name, read=partial(_csv_rows, path, encoding, style, header, names))


def _style(path: Path, encoding: str, delimiters: str) -> _Style:
    with open_text(path, encoding) as file:
        lines = (line for line in iter(partial(file.readline, LOOKED_AT), "") if line.strip())
        first = next(lines, "").strip("\r\n")
    if first[:4].lower() == "sep=" and first[4:] in [*delimiters]:
        return _Style(first[4:], blank_after=False)
    plain = "".join(first.split('"')[::2])
    delimiter = max(delimiters, key=plain.count)
    rest = first.split(delimiter)[1:]
    return _Style(delimiter, blank_after=bool(rest) and all(cell.startswith(" ") for cell in rest))


def _names(header: list[str], name: str) -> list[str]:
    """Return the names of the columns; empty ones at the end are what Excel leaves behind. Raises `DataError`."""
    names = [cell.strip() for cell in header]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{name} has no line with the names of the columns.", "Begin it with `prompt,completion`.")
    _refuse_double([cell for cell in names if cell], name)
    if sentence := next((cell for cell in names if SENTENCE.fullmatch(cell)), None):
        raise DataError(
            f"The first line of {name} looks like data, not like names of columns: {shown(sentence)}.",
            "Put a line such as `prompt,completion` on top.",
        )
    return [cell or f"column {place}" for place, cell in enumerate(names, start=1)]


def _refuse_double(names: list[str], name: str) -> None:
    if double := sorted({cell for cell in names if names.count(cell) > 1}):
        raise DataError(f"{name} has several columns called {listed(double)}.", "Give each column a name of its own.")


def _records(path: Path, encoding: str, style: _Style) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yield the records that are not blank, the header too, each with the number of its first line."""
    csv.field_size_limit(LONGEST_CELL)
    held: list[str] = []
    with open_text(path, encoding, newline="") as file:
        lines = _remembered(file, held)
        table = csv.reader(lines, delimiter=style.delimiter, skipinitialspace=style.blank_after, strict=True)
        while True:
            began = table.line_num + 1
            held.clear()
            try:
                cells = next(table, None)
            except csv.Error as exc:
                where = f"Line {began}" if table.line_num == began else f"Lines {began} to {table.line_num}"
                message = f"{where} cannot be split into columns, since {_why(exc)}: {shown(''.join(held))}."
                yield began, BadRow("fields", None, message, style.fix)
                continue
            if cells is None:
                return
            is_excels_mark = began == 1 and cells and cells[0].lower() == "sep="
            if any(cell.strip() for cell in cells) and not is_excels_mark:
                yield began, cells


def _remembered(lines: IO[str], held: list[str]) -> Iterator[str]:
    """Yield the lines, and hold the first two of a record."""
    for line in lines:
        if len(held) < 2:
            held.append(line[:200])
        yield line


def _why(exc: csv.Error) -> str:
    said = str(exc)
    if "end of data" in said:
        return "a quote is opened there and never closed"
    if "expected after" in said:
        return "a text goes on after its closing quote"
    return f"a cell has more than {LONGEST_CELL:,} characters"


def _csv_rows(path: Path, encoding: str, style: _Style, header: list[str], names: list[str]) -> Rows:
    for line, cells in islice(_records(path, encoding, style), 1, None):
        if isinstance(cells, BadRow):
            yield cells
        elif cells == header:
            message = f"Line {line} repeats the names of the columns: {listed(names)}."
            yield BadRow("fields", None, message, "Delete that line.")
        else:
            yield _csv_row(cells, names, line, style)


def _csv_row(cells: list[str], names: list[str], line: int, style: _Style) -> Row | BadRow:
    extra = [cell for cell in cells[len(names) :] if cell.strip()]
    if len(cells) < len(names) or extra:
        counted = len(cells) if len(cells) < len(names) else len(names) + len(extra)
        values, columns = _counted(counted, "value"), _counted(len(names), "column")
        return BadRow("fields", None, f"Line {line} has {values} for {columns}: {shown(cells)}.", style.fix)
    return dict(zip(names, cells, strict=False))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def parquet_file(path: Path) -> Source:
    """Return the rows of a Parquet file, which may be gzipped. Raises `DataError`."""
    start = first_bytes(path)
    if not start.startswith(PARQUET):
        refuse_other_kinds(start, path.name)
        begin = shown(start[:40].decode("utf-8", "replace"))
        raise DataError(f"{path.name} is no Parquet file; it begins with {begin}.", "Rename it, or save it as Parquet.")
    with _parquet(path) as file:
        total, names = file.metadata.num_rows, file.schema_arrow.names
    _refuse_double(names, path.name)
    if not total:
        raise DataError(f"{path.name} has columns ({listed(names)}) and no rows.", "Add the rows.")
    return Source(name=path.name, read=partial(_parquet_rows, path), total=total)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Give the opened file. What goes wrong with it is a `DataError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path), _unpacked(path) as bare:
        bare.seek(-len(PARQUET), 2)
        if bare.read() != PARQUET:
            raise DataError(
                f"{path.name} is a Parquet file that was cut off: its end is missing.", "Download or upload it again."
            )
        bare.seek(0)
        try:
            with pq.ParquetFile(bare) as file:
                yield file
        except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
            raise DataError(
                f"{path.name} is a damaged Parquet file.", "Download or upload it again, or save it anew."
            ) from exc


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Give the file's bytes, to be read in any order: what is gzipped is unpacked to the disk."""
    with open_bytes(path) as file:
        if not isinstance(file, gzip.GzipFile):
            yield file
            return
        with tempfile.TemporaryFile() as bare:
            shutil.copyfileobj(file, bare)
            yield bare


def _parquet_rows(path: Path) -> Rows:
    with _parquet(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            columns = [_values(column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                yield dict(zip(batch.schema.names, values, strict=True))


def _values(column: Any) -> list[Any]:
    """Return what a column holds. A time that Python has no value for is `None`."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        raise
    except (ArithmeticError, LookupError, ValueError):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ArithmeticError, LookupError, ValueError):
        return None
